/** Where what the service tells a worker comes in. */

import { type ConnectResponse, TaskKind, type TaskRef } from "./gen/stepwell/v1/workers_pb.js";
import type { Outbox } from "./outbox.js";
import type { Performer } from "./performer.js";
import type { Roster } from "./roster.js";
import type { Listener } from "./session.js";
import { milliseconds, type Milliseconds } from "./times.js";

/** Hands each thing to whoever it is about. */
export class Reception implements Listener {
  constructor(
    private readonly runs: Roster,
    private readonly tasks: Performer,
    private readonly outbox: Outbox,
    private readonly greeted: () => void,
    private readonly rotate: (within: Milliseconds) => void,
  ) {}

  held(): TaskRef[] {
    return [...this.runs.runs.values(), ...this.tasks.running.values()].map(({ ref }) => ref);
  }

  /** Takes in a message: assigns first, since all else that it says may be about them. */
  received(message: ConnectResponse): void {
    if (message.welcome) this.greeted();
    for (const task of message.assigns) {
      if (task.kind === TaskKind.RUN) this.runs.assign(task);
      else this.tasks.assign(task);
    }
    for (const { ref, reason } of message.cancels) {
      this.tasks.cancel(ref);
      this.runs.cancel(ref, reason);
    }
    for (const { ref } of message.revokes) {
      this.tasks.revoke(ref);
      this.runs.revoke(ref);
    }
    for (const result of message.results) this.outbox.answer(result);
    for (const result of message.heartbeats) this.tasks.beatAnswered(result);
    for (const news of message.advances) this.runs.advance(news);
    for (const query of message.queries) this.runs.ask(query);
    if (message.rotate) this.rotate(message.rotate.within ? milliseconds(message.rotate.within) : 0);
  }

  resumed(held: readonly TaskRef[]): void {
    const still = new Map(held.map(({ taskId, token }) => [taskId, token]));
    const reported = this.outbox.reported();
    const isHeld = ({ taskId, token }: TaskRef) => still.get(taskId) === token || reported.has(taskId);
    for (const run of [...this.runs.runs.values()]) if (!isHeld(run.ref)) this.runs.forget(run);
    for (const attempt of [...this.tasks.running.values()]) if (!isHeld(attempt.ref)) attempt.lose();
  }

  sessionLost(): void {
    for (const run of [...this.runs.runs.values()]) this.runs.forget(run);
    for (const attempt of [...this.tasks.running.values()]) attempt.lose();
  }
}
