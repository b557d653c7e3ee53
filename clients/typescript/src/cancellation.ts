/** A request to cancel a run, and where each of its branches hears of it: the same place in every replay. */

import type { Code } from "./code.js";
import { hasEnded } from "./code.js";
import { RunCancelled } from "./errors.js";
import { StepKind, StepState } from "./gen/stepwell/v1/types_pb.js";
import type { StepRecord } from "./gen/stepwell/v1/workers_pb.js";
import { jsonPayload } from "./payloads.js";
import { CANCEL_MARK, keyOf, type Scope, WAIT } from "./scopes.js";

/** The request, once there is one. */
export class Cancellation {
  constructor(
    private readonly code: Code,
    public isDue: boolean,
    public reason: string,
  ) {}

  request(reason: string): void {
    this.isDue = true;
    this.reason = reason;
    this.code.run.poke();
  }

  /**
   * Throws the cancellation again where the record has it. `givenUp` is the step that the branch waited for: if that is
   * open, the worker before was lost between the two.
   */
  meet(scope: Scope, place: string, givenUp?: StepRecord): void {
    const { code } = this;
    const mark = scope.marks.get(scope.count);
    if (mark?.name !== CANCEL_MARK || mark.result?.body.value !== place) return;
    scope.marks.delete(scope.count);
    if (givenUp && !hasEnded(givenUp)) {
      code.out.cancelOrdinals.push(givenUp.ordinal);
      code.run.poke();
    }
    code.record.steps.delete(keyOf(mark));
    code.out.replay(scope, mark);
    scope.cancelSeen = true;
    throw new RunCancelled(this.reason);
  }

  /** What a branch hears in place of the end of a step that the request ended, if it has yet to hear of it. */
  atEnd(scope: Scope, record: StepRecord): RunCancelled | undefined {
    const isNews = this.isDue && !scope.cancelSeen && record.state === StepState.CANCELLED;
    return isNews ? this.hear(scope, WAIT) : undefined;
  }

  /** Records that a branch hears of it here. */
  hear(scope: Scope, place: string): RunCancelled {
    scope.cancelSeen = true;
    const mark = { kind: StepKind.MARKER, name: CANCEL_MARK, key: "" };
    this.code.addStep(scope, mark, { case: "marker", value: { value: jsonPayload(place) } });
    return new RunCancelled(this.reason);
  }

  /** Lets all branches hear of it that wait for a step, but for those that wait for an activity's own end first. */
  tell(): boolean {
    if (!this.isDue) return false;
    const { code } = this;
    let told = false;
    for (const scope of code.scopes) {
      const call = scope.waiting;
      if (scope.cancelSeen || !call || call.ended) continue;
      if (call.patient) {
        code.out.stop(call);
        continue;
      }
      const error = this.hear(scope, WAIT);
      if (!call.forsaken) code.out.giveUp(call);
      code.active++;
      call.reject!(error);
      told = true;
    }
    return told;
  }
}
