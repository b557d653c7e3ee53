/** What a worker makes of a report that was refused. */

import { Code } from "@connectrpc/connect";

import type { ServiceError } from "./errors.js";
import { jitter, type Milliseconds } from "./times.js";

const RETRY_DELAY = 1000;
const MOST_INTERNAL = 4;

/** How often one task's reports come again. */
export class Repeats {
  private failures = 0;

  /** When the same report may be sent again: not before the service advises. Undefined if that can't help (any more). */
  pauseAfter(error: ServiceError): Milliseconds | undefined {
    if (error.code === Code.Internal ? ++this.failures > MOST_INTERNAL : !error.isPassing) return undefined;
    const { retryAfter } = error;
    return retryAfter === undefined ? jitter(2 * RETRY_DELAY) : retryAfter + jitter(retryAfter);
  }
}

/** Whether what was reported is at fault: its task is still held, and to be failed with the refusal. */
export function isOwnFault(error: ServiceError): boolean {
  return error.code === Code.InvalidArgument || error.code === Code.ResourceExhausted;
}

/** Whether the task is still held, so that it has to be given back if nothing else can be said of it. */
export function isStillHeld(error: ServiceError): boolean {
  return isOwnFault(error) || error.code === Code.Internal || error.reason === "RESULT_NOT_RECORDED";
}
