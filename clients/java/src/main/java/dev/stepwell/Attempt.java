package dev.stepwell;

import dev.stepwell.v1.CancelledActivity;
import dev.stepwell.v1.CompleteActivity;
import dev.stepwell.v1.FailActivity;
import dev.stepwell.v1.Failure;
import dev.stepwell.v1.Payload;
import dev.stepwell.v1.ReleaseTask;
import dev.stepwell.v1.Report;
import dev.stepwell.v1.Task;
import dev.stepwell.v1.TaskHeartbeat;
import dev.stepwell.v1.TaskRef;
import java.util.Optional;

/**
 * One attempt at an activity or a job, from its assignment until its report is answered. It is guarded by the session's
 * monitor; the activity's code runs outside of it, in a thread of its own.
 */
final class Attempt implements ActivityContext {
    private static final int PAYLOAD_BYTES = 2 << 20;
    private static final long BEAT_MILLIS = 10_000;

    final long number;
    final Thread thread = new Thread(this::run, "stepwell-activity");
    /** How it ended; null before. */
    Report report;
    /** When the report is to be said again. */
    long repeatAt = Session.NEVER;

    private final Session session;
    private final Task task;
    private final TaskHeartbeat.Builder heartbeat;
    private boolean hasBeat;
    private long beatAt;
    private volatile boolean isCancelled;

    Attempt(Session session, Task task, long number) {
        this.session = session;
        this.task = task;
        this.number = number;
        heartbeat = TaskHeartbeat.newBuilder().setRef(task.getRef());
        thread.setDaemon(true);
    }

    TaskRef ref() {
        return task.getRef();
    }

    @Override
    public Task task() {
        return task;
    }

    @Override
    public boolean isCancelled() {
        return isCancelled;
    }

    @Override
    public <T> Optional<T> heartbeatDetails(Class<T> type) {
        Optional<Payload> details = Optional.of(task.getHeartbeatDetails()).filter(told -> task.hasHeartbeatDetails());
        return details.map(told -> session.worker.payloads.read(told, type));
    }

    @Override
    public void heartbeat(Object details) {
        Payload told = details == null ? null : fitting(session.worker.payloads.write(details));
        synchronized (session) {
            if (told != null) {
                heartbeat.setDetails(told);
            }
            hasBeat = true;
        }
    }

    private void run() {
        Report.Builder outcome = perform();
        synchronized (session) {
            end(outcome);
        }
    }

    private Report.Builder perform() {
        Activity<Payload, Payload> activity = session.worker.activities.get(task.getType());
        if (activity == null) {
            return released("activity " + task.getType() + " is not known here");
        }
        try {
            Payload result = fitting(activity.perform(this, task.getInput()));
            return Report.newBuilder().setComplete(CompleteActivity.newBuilder().setResult(result));
        } catch (Throwable thrown) {
            return isCancelled && Failures.isStop(thrown)
                    ? Report.newBuilder().setCancelled(CancelledActivity.getDefaultInstance())
                    : failed(Failures.of(thrown));
        }
    }

    /** Tells how it ended, unless it was given back or dropped before. */
    private void end(Report.Builder outcome) {
        if (session.awaits(this)) {
            if (!outcome.hasComplete()) {
                // What the next attempt needs to know goes out before it can begin.
                sayHeartbeat();
            }
            report(outcome);
        }
    }

    private void report(Report.Builder outcome) {
        report = outcome.setRef(ref()).setCorrelation(number).build();
        session.report(this);
    }

    private void sayHeartbeat() {
        if (hasBeat) {
            hasBeat = false;
            session.say(heartbeat.build());
        }
    }

    /** Does what is due; a heartbeat at most twice in the time that may lie between two. */
    void tick(long now) {
        if (now >= repeatAt) {
            session.say(this);
        }
        if (hasBeat && now >= beatAt && session.awaits(this)) {
            beatAt = now + (task.hasHeartbeatTimeout() ? Session.millis(task.getHeartbeatTimeout()) : BEAT_MILLIS) / 2;
            sayHeartbeat();
        }
    }

    /** Asks the code to stop, once. */
    void cancel() {
        if (!isCancelled) {
            isCancelled = true;
            thread.interrupt();
        }
    }

    /** Gives the task back, unless it is reported already. */
    void release(String reason) {
        end(released(reason));
        cancel();
    }

    /** Fails for good: what the attempt came to can't be recorded, and could not be at another one. */
    void fail(StepwellException refusal) {
        Failure.Builder failure = Failure.newBuilder().setType(refusal.reason()).setMessage(refusal.getMessage());
        report(failed(failure.setNonRetryable(true).build()));
    }

    private static Report.Builder released(String reason) {
        return Report.newBuilder().setRelease(ReleaseTask.newBuilder().setReason(reason));
    }

    private static Report.Builder failed(Failure failure) {
        return Report.newBuilder().setFail(FailActivity.newBuilder().setFailure(failure));
    }

    /** What is larger would be refused, and with it all that is said in the same message. */
    private static Payload fitting(Payload payload) {
        int bytes = payload.getSerializedSize();
        if (bytes > PAYLOAD_BYTES) {
            throw ApplicationException.nonRetryable(
                    "PayloadTooLarge", "a value of " + bytes + " bytes, of at most " + PAYLOAD_BYTES);
        }
        return payload;
    }
}
