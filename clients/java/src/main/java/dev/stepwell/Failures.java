package dev.stepwell;

import com.google.protobuf.Duration;
import dev.stepwell.v1.Failure;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.Objects;
import java.util.concurrent.CancellationException;
import java.util.stream.Stream;

/** Spells what an activity's code has thrown as the protocol has it. */
final class Failures {
    private static final int TEXT_LENGTH = 16_000;

    private Failures() {}

    static Failure of(Throwable thrown) {
        StringWriter trace = new StringWriter();
        thrown.printStackTrace(new PrintWriter(trace, true));
        String name = thrown.getClass().getSimpleName();
        Failure.Builder failure = Failure.newBuilder()
                .setType(name.isEmpty() ? thrown.getClass().getName() : name)
                .setMessage(cut(Objects.requireNonNullElseGet(thrown.getMessage(), thrown::toString)))
                .setStackTrace(cut(trace.toString()));
        if (thrown instanceof ApplicationException known) {
            failure.setType(known.type().isEmpty() ? failure.getType() : known.type());
            failure.setNonRetryable(!known.isRetryable());
            if (known.retryAfter() != null) {
                failure.setNextRetryDelay(Duration.newBuilder()
                        .setSeconds(known.retryAfter().getSeconds())
                        .setNanos(known.retryAfter().getNano()));
            }
        }
        return failure.build();
    }

    /** Whether code that was interrupted says so, by whatever it put around it. */
    static boolean isStop(Throwable thrown) {
        return Stream.iterate(thrown, Objects::nonNull, Throwable::getCause)
                .anyMatch(cause -> cause instanceof InterruptedException || cause instanceof CancellationException);
    }

    /** So that a message stays small: the service keeps about as much of it. */
    private static String cut(String text) {
        return text.substring(0, Math.min(text.length(), TEXT_LENGTH));
    }
}
