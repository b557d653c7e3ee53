/** Durations and delays. */

import { type Duration, durationFromMs } from "@bufbuild/protobuf/wkt";

/** A time span: milliseconds. */
export type Milliseconds = number;

export function milliseconds(duration: Duration): Milliseconds {
  return Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

/** Spells a time span, of which undefined says nothing. */
export function durationOf(span: Milliseconds | undefined): Duration | undefined {
  return span === undefined ? undefined : durationFromMs(span);
}

/** A random part of a time span. */
export function jitter(most: Milliseconds): Milliseconds {
  return Math.random() * most;
}

/** Waits; ends early, without a word, when the signal does. */
export function delay(span: Milliseconds, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, span);
    signal?.addEventListener("abort", end);
  });
}
