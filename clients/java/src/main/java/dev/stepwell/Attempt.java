package dev.stepwell;

import dev.stepwell.v1.CancelledActivity;
import dev.stepwell.v1.CompleteActivity;
import dev.stepwell.v1.FailActivity;
import dev.stepwell.v1.Failure;
import dev.stepwell.v1.Payload;
import dev.stepwell.v1.ReleaseTask;
import dev.stepwell.v1.Report;
import dev.stepwell.v1.ReportResult;
import dev.stepwell.v1.Task;
import dev.stepwell.v1.TaskHeartbeat;
import dev.stepwell.v1.TaskRef;
import io.grpc.Status;
import java.lang.System.Logger.Level;
import java.util.Optional;

/**
 * One attempt at an activity or a job, from its assignment until its report is answered. Its fields are guarded by the
 * session's monitor; the activity's code runs outside of it.
 */
final class Attempt implements ActivityContext, Runnable {
    /** What performs a type of activity. */
    interface Definition {
        Payload perform(ActivityContext context, Payload input) throws Exception;
    }

    private static final System.Logger LOG = System.getLogger(Attempt.class.getName());
    private static final int PAYLOAD_BYTES = 2 << 20;
    private static final long BEAT_MILLIS = 5_000;
    private static final long REPEAT_MILLIS = 1_000;
    private static final long MOST_REPEAT_MILLIS = 30_000;

    private final Object monitor;
    private final Roster roster;
    private final Payloads payloads;
    private final Task task;
    private final Definition definition;

    private Thread thread;
    private boolean isCancelled;
    private boolean isGone;
    private boolean isRefused;
    private Report.Builder report;
    private int repeats;
    private Payload details;
    private boolean hasBeat;
    private boolean isThrottled;

    Attempt(Object monitor, Roster roster, Payloads payloads, Task task, Definition definition) {
        this.monitor = monitor;
        this.roster = roster;
        this.payloads = payloads;
        this.task = task;
        this.definition = definition;
    }

    TaskRef ref() {
        return task.getRef();
    }

    @Override
    public Task task() {
        return task;
    }

    @Override
    public void run() {
        synchronized (monitor) {
            if (isGone) {
                return;
            }
            thread = Thread.currentThread();
            if (isCancelled) {
                thread.interrupt();
            }
        }
        Report.Builder outcome = perform();
        synchronized (monitor) {
            // From here on nobody interrupts the thread, which other attempts use after this one.
            thread = null;
            Thread.interrupted();
            end(outcome);
        }
    }

    private Report.Builder perform() {
        try {
            Payload result = fitting(definition.perform(this, task.getInput()));
            return Report.newBuilder().setComplete(CompleteActivity.newBuilder().setResult(result));
        } catch (Throwable thrown) {
            if (isCancelled() && Failures.isStop(thrown)) {
                return Report.newBuilder().setCancelled(CancelledActivity.getDefaultInstance());
            }
            return failed(Failures.of(thrown));
        }
    }

    private static Report.Builder failed(Failure failure) {
        return Report.newBuilder().setFail(FailActivity.newBuilder().setFailure(failure));
    }

    /** What is larger would be refused, and with it all that is said in the same message. */
    private static Payload fitting(Payload payload) {
        if (payload.getSerializedSize() > PAYLOAD_BYTES) {
            throw ApplicationException.nonRetryable(
                    "PayloadTooLarge",
                    "a value of " + payload.getSerializedSize() + " bytes, of at most " + PAYLOAD_BYTES);
        }
        return payload;
    }

    /** Reports how the attempt has ended, if it has not been given back meanwhile. */
    private void end(Report.Builder outcome) {
        if (report == null) {
            if (!outcome.hasComplete()) {
                // What the next attempt needs to know goes out before it can begin.
                sendBeat();
            }
            tell(outcome);
        }
    }

    private void tell(Report.Builder outcome) {
        if (!isGone) {
            report = outcome.setRef(ref());
            roster.report(report);
        }
    }

    /** Takes in what became of the report; to be called with the session's monitor. */
    void answered(ReportResult result) {
        if (result.getStatus() == ReportResult.Status.STATUS_REFUSED) {
            StepwellException refusal = StepwellException.of(result.getError());
            LOG.log(Level.INFO, "the report of a {0} was refused: {1}", task.getType(), refusal);
            if (refusal.isPassing() || refusal.code() == Status.Code.INTERNAL) {
                long backoff = Math.min(MOST_REPEAT_MILLIS, REPEAT_MILLIS << Math.min(repeats++, 8));
                long advice =
                        refusal.retryDelay().map(java.time.Duration::toMillis).orElse(0L);
                roster.later(advice + Session.jitter(backoff), () -> tell(report));
                return;
            }
            if (refusal.code() == Status.Code.INVALID_ARGUMENT && !isRefused) {
                // What it came to can't be recorded, and would not be at another attempt.
                isRefused = true;
                tell(failed(Failures.of(refusal)));
                return;
            }
        }
        lose();
    }

    /** Asks the code to stop; to be called with the session's monitor. */
    void cancel() {
        if (!isCancelled) {
            isCancelled = true;
            if (thread != null) {
                thread.interrupt();
            }
        }
    }

    /** Ends an attempt that is over, or somebody else's; to be called with the session's monitor. */
    void lose() {
        isGone = true;
        cancel();
        roster.remove(this);
    }

    /** Gives the task back, unless it is reported already; to be called with the session's monitor. */
    void release(String reason) {
        end(Report.newBuilder().setRelease(ReleaseTask.newBuilder().setReason(reason)));
        cancel();
    }

    @Override
    public boolean isCancelled() {
        synchronized (monitor) {
            return isCancelled;
        }
    }

    @Override
    public <T> Optional<T> heartbeatDetails(Class<T> type) {
        return task.hasHeartbeatDetails()
                ? Optional.ofNullable(payloads.read(task.getHeartbeatDetails(), type))
                : Optional.empty();
    }

    @Override
    public void heartbeat(Object value) {
        Payload told = value == null ? null : fitting(payloads.write(value));
        synchronized (monitor) {
            details = told == null ? details : told;
            hasBeat = true;
            if (!isThrottled) {
                breathe();
            }
        }
    }

    /** Sends what gathered since the last heartbeat, and then nothing for half of what may lie between two. */
    private void breathe() {
        isThrottled = hasBeat && !isGone && report == null;
        if (isThrottled) {
            sendBeat();
            long timeout = Session.millis(task.getHeartbeatTimeout());
            roster.later(timeout > 0 ? timeout / 2 : BEAT_MILLIS, this::breathe);
        }
    }

    private void sendBeat() {
        if (hasBeat && !isGone) {
            hasBeat = false;
            TaskHeartbeat.Builder beat = TaskHeartbeat.newBuilder().setRef(ref());
            if (details != null) {
                beat.setDetails(details);
            }
            roster.heartbeat(beat.build());
        }
    }
}
