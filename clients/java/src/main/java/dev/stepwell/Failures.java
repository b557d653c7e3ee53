package dev.stepwell;

import com.google.protobuf.Duration;
import dev.stepwell.v1.Failure;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.concurrent.CancellationException;

/** Spells what an activity's code has thrown as the protocol has it. */
final class Failures {
    private static final int TYPE_LENGTH = 200;
    private static final int MESSAGE_LENGTH = 4_000;
    private static final int TRACE_LENGTH = 16_000;

    private Failures() {}

    static Failure of(Throwable thrown) {
        String message = thrown.getMessage() == null ? thrown.toString() : thrown.getMessage();
        Failure.Builder failure = Failure.newBuilder()
                .setType(storable(typeOf(thrown), TYPE_LENGTH))
                .setMessage(storable(message, MESSAGE_LENGTH))
                .setStackTrace(storable(traceOf(thrown), TRACE_LENGTH));
        if (thrown instanceof ApplicationException known) {
            failure.setNonRetryable(!known.isRetryable());
            if (known.retryAfter() != null) {
                failure.setNextRetryDelay(Duration.newBuilder()
                        .setSeconds(known.retryAfter().getSeconds())
                        .setNanos(known.retryAfter().getNano()));
            }
        }
        return failure.build();
    }

    /** The failure of an activity whose report was refused, as it would be at another attempt. */
    static Failure of(StepwellException refusal) {
        return Failure.newBuilder()
                .setType(refusal.reason())
                .setMessage(storable(refusal.getMessage(), MESSAGE_LENGTH))
                .setNonRetryable(true)
                .build();
    }

    /** Whether code that was interrupted says so, by whatever it put around it. */
    static boolean isStop(Throwable thrown) {
        for (Throwable cause = thrown; cause != null; cause = cause.getCause()) {
            if (cause instanceof InterruptedException || cause instanceof CancellationException) {
                return true;
            }
        }
        return false;
    }

    private static String typeOf(Throwable thrown) {
        if (thrown instanceof ApplicationException known && !known.type().isEmpty()) {
            return known.type();
        }
        String name = thrown.getClass().getSimpleName();
        return name.isEmpty() ? thrown.getClass().getName() : name;
    }

    private static String traceOf(Throwable thrown) {
        StringWriter trace = new StringWriter();
        thrown.printStackTrace(new PrintWriter(trace, true));
        return trace.toString();
    }

    /** Without what the service does not store, and not too long. */
    private static String storable(String text, int length) {
        String clean = text.replace("\0", "\\0");
        return clean.length() <= length ? clean : clean.substring(0, length);
    }
}
