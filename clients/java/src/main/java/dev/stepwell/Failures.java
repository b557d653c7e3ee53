package dev.stepwell;

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

/** Spells what an activity's code has thrown as the protocol has it. */
final class Failures {
    /** Cuts a text, so that a message stays small: the service keeps about as much. */
    private static final String CUT = "%.16000s";
    /** They may go in a circle. */
    private static final int MOST_CAUSES = 100;

    private Failures() {}

    /** What code came to that has thrown; it has stopped if it was asked to, and says so by whatever it put around it. */
    static Report.Builder of(Throwable thrown, boolean isCancelled) {
        Stream<Throwable> causes =
                Stream.iterate(thrown, Objects::nonNull, Throwable::getCause).limit(MOST_CAUSES);
        if (isCancelled && causes.anyMatch(Failures::isStop)) {
            return Report.newBuilder().setCancelled(CancelledActivity.getDefaultInstance());
        }
        Class<?> type = thrown.getClass();
        Failure.Builder failure =
                Failure.newBuilder().setType((type.isAnonymousClass() ? type.getSuperclass() : type).getSimpleName());
        try {
            StringWriter trace = new StringWriter();
            thrown.printStackTrace(new PrintWriter(trace, true));
            failure.setMessage(CUT.formatted(thrown.getMessage() == null ? thrown : thrown.getMessage()))
                    .setStackTrace(CUT.formatted(trace));
        } catch (RuntimeException unsayable) {
            failure.setMessage("it can't say what it is about: " + unsayable);
        }
        if (thrown instanceof ApplicationException known) {
            failure.setType(known.type()).setNonRetryable(!known.isRetryable());
            Duration delay = known.retryAfter();
            if (delay != null) {
                failure.getNextRetryDelayBuilder()
                        .setSeconds(delay.getSeconds())
                        .setNanos(delay.getNano());
            }
        }
        return Report.newBuilder().setFail(FailActivity.newBuilder().setFailure(failure));
    }

    private static boolean isStop(Throwable cause) {
        return cause instanceof InterruptedException || cause instanceof CancellationException;
    }
}
