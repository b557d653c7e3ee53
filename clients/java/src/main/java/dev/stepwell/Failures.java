package dev.stepwell;

import com.google.rpc.Status;
import dev.stepwell.v1.CancelledActivity;
import dev.stepwell.v1.FailActivity;
import dev.stepwell.v1.Failure;
import dev.stepwell.v1.Report;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.CancellationException;
import java.util.stream.Stream;

/** Spells what came of an attempt that did not end well. */
final class Failures {
    private static final int TEXT_LENGTH = 16_000;

    private Failures() {}

    /** What an activity's code has thrown. If it was asked to stop and says so, by whatever it put around it, it has. */
    static Report.Builder of(Throwable thrown, boolean isCancelled) {
        Stream<Throwable> causes = Stream.iterate(thrown, Objects::nonNull, Throwable::getCause);
        if (isCancelled && causes.anyMatch(Failures::isStop)) {
            return Report.newBuilder().setCancelled(CancelledActivity.getDefaultInstance());
        }
        StringWriter trace = new StringWriter();
        thrown.printStackTrace(new PrintWriter(trace, true));
        String message = thrown.getMessage() == null ? thrown.toString() : thrown.getMessage();
        Failure.Builder failure = Failure.newBuilder().setMessage(cut(message)).setStackTrace(cut(trace.toString()));
        failure.setType(thrown.getClass().getSimpleName());
        if (thrown instanceof ApplicationException known) {
            failure.setType(known.type()).setNonRetryable(!known.isRetryable());
            Duration delay = known.retryAfter();
            if (delay != null) {
                failure.getNextRetryDelayBuilder()
                        .setSeconds(delay.getSeconds())
                        .setNanos(delay.getNano());
            }
        }
        return of(failure);
    }

    /** What it came to was refused, and would be at another attempt. */
    static Report.Builder of(Status error) {
        StepwellException refusal = StepwellException.of(error);
        Failure.Builder failure = Failure.newBuilder().setType(refusal.reason()).setMessage(refusal.getMessage());
        return of(failure.setNonRetryable(true));
    }

    private static Report.Builder of(Failure.Builder failure) {
        return Report.newBuilder().setFail(FailActivity.newBuilder().setFailure(failure));
    }

    private static boolean isStop(Throwable cause) {
        return cause instanceof InterruptedException || cause instanceof CancellationException;
    }

    /** So that a message stays small: the service keeps about as much. */
    private static String cut(String text) {
        return text.substring(0, Math.min(text.length(), TEXT_LENGTH));
    }
}
