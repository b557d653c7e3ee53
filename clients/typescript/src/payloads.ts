/** Values as payloads, and back. */

import { create, toBinary } from "@bufbuild/protobuf";

import { ApplicationError } from "./errors.js";
import { type Payload, PayloadSchema } from "./gen/stepwell/v1/types_pb.js";

/** The service takes no more. */
const MOST_BYTES = 2 * 1024 * 1024;

/** Turns values into payloads and back. The default one writes JSON. */
export interface Converter {
  /** Throws for what it can't write. */
  toPayload(value: unknown): Payload;
  /** Gives null for none. */
  fromPayload(payload: Payload | undefined): unknown;
}

/**
 * Changes payloads on their way to the service and back: to encrypt or to compress them, say. Stepwell stores what
 * `encode` gives, and never looks inside.
 */
export interface Codec {
  /** On the way to the service. */
  encode(payload: Payload): Payload;
  /** On the way back. */
  decode(payload: Payload): Payload;
}

/** Makes a payload of JSON text. */
export function jsonPayload(text: string): Payload {
  return create(PayloadSchema, { body: { case: "json", value: text } });
}

/** Writes JSON; null and undefined are the empty payload. */
export const jsonConverter: Converter = {
  toPayload(value) {
    if (value === undefined || value === null) return create(PayloadSchema);
    const text = JSON.stringify(value) as string | undefined;
    if (text === undefined) throw new TypeError(`a ${typeof value} is not to be written as JSON`);
    return jsonPayload(text);
  },
  fromPayload(payload) {
    if (payload?.body.case === undefined) return null;
    if (payload.body.case === "json") return JSON.parse(payload.body.value);
    throw new TypeError("the payload has bytes and no JSON: a converter or a codec is needed");
  },
};

/** Puts a codec and the service's limit around a converter. The null value has nothing to hide. */
export function guarded(inner: Converter, codec: Codec | undefined): Converter {
  const isPlain = (payload: Payload | undefined) => !codec || payload?.body.case === undefined;
  return {
    toPayload(value) {
      if (value instanceof Promise) {
        // Nobody looks at what it comes to.
        value.catch(() => {});
        throw new TypeError("a promise can't be written: await it first");
      }
      const plain = inner.toPayload(value);
      const payload = isPlain(plain) ? plain : codec!.encode(plain);
      const size = toBinary(PayloadSchema, payload).length;
      if (size <= MOST_BYTES) return payload;
      const options = { type: "PayloadTooLarge", nonRetryable: true };
      throw new ApplicationError(`a payload has at most ${MOST_BYTES} bytes, not ${size}`, options);
    },
    fromPayload: (payload) => inner.fromPayload(isPlain(payload) ? payload : codec!.decode(payload!)),
  };
}
