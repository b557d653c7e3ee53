/** Values as payloads, and back. */

import { create } from "@bufbuild/protobuf";

import { type Payload, PayloadSchema } from "./gen/stepwell/v1/types_pb.js";

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
    const text = value === undefined || value === null ? undefined : JSON.stringify(value);
    if (value !== undefined && value !== null && text === undefined) {
      throw new TypeError(`a ${typeof value} is not to be written as JSON`);
    }
    return text === undefined ? create(PayloadSchema) : jsonPayload(text);
  },
  fromPayload(payload) {
    switch (payload?.body.case) {
      case undefined:
        return null;
      case "json":
        return JSON.parse(payload!.body.value as string);
      default:
        throw new TypeError("the payload has bytes and no JSON: a converter or a codec is needed");
    }
  },
};

/** Puts a codec around a converter. The null value has nothing to hide. */
export function withCodec(inner: Converter, codec: Codec): Converter {
  return {
    toPayload(value) {
      const payload = inner.toPayload(value);
      return payload.body.case === undefined ? payload : codec.encode(payload);
    },
    fromPayload(payload) {
      return inner.fromPayload(payload?.body.case === undefined ? payload : codec.decode(payload));
    },
  };
}
