/** Durations and delays. */

import { setTimeout as pause } from "node:timers/promises";

import { create } from "@bufbuild/protobuf";
import { type Duration, DurationSchema } from "@bufbuild/protobuf/wkt";

/** A time span: milliseconds. */
export type Milliseconds = number;

/** Reads a time span; none is 0. */
export function milliseconds(duration: Duration | undefined): Milliseconds {
  return duration ? Number(duration.seconds) * 1000 + duration.nanos / 1e6 : 0;
}

/** Spells a time span, to the nearest nanosecond; undefined says nothing. */
export function durationOf(span: Milliseconds | undefined): Duration | undefined {
  if (span === undefined) return undefined;
  if (!Number.isFinite(span)) throw new RangeError(`a time span is a finite number of milliseconds, not ${span}`);
  const whole = Math.trunc(span / 1000);
  const nanos = Math.round((span - whole * 1000) * 1e6);
  const carry = Math.trunc(nanos / 1e9);
  // Of a negative zero nothing can be written.
  return create(DurationSchema, { seconds: BigInt(whole + carry), nanos: nanos - carry * 1e9 || 0 });
}

/** Something that is waited for until it is opened. */
export function gate<T = void>(): { readonly promise: Promise<T>; open(value: T): void } {
  let open!: (value: T) => void;
  return { promise: new Promise<T>((resolve) => (open = resolve)), open };
}

/** The end of a signal as a promise that fails, which `forget` takes back. */
export function aborted(stop: AbortSignal | undefined): { promise: Promise<never>; forget: () => void } {
  let told!: () => void;
  const promise = new Promise<never>((_, reject) => (told = () => reject(stop!.reason)));
  promise.catch(() => {});
  if (stop?.aborted) told();
  stop?.addEventListener("abort", told, { once: true });
  return { promise, forget: () => stop?.removeEventListener("abort", told) };
}

/** A random part of a time span. */
export function jitter(most: Milliseconds): Milliseconds {
  return Math.random() * most;
}

/** Node's timers take no more: what is longer would be no time at all. */
const LONGEST = 2 ** 31 - 1;

/** Waits, for some 25 days at most; ends early, without a word, when the signal does. */
export function delay(span: Milliseconds, signal?: AbortSignal): Promise<void> {
  return pause(Math.min(span, LONGEST), undefined, { signal }).catch(() => {});
}
