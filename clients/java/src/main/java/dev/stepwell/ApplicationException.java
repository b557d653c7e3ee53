package dev.stepwell;

import java.time.Duration;

/** A failure that an activity's code has a name for. */
public class ApplicationException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final String type;
    private final boolean isRetryable;
    private final Duration retryAfter;

    private ApplicationException(String type, String message, boolean isRetryable, Duration retryAfter) {
        super(message);
        this.type = type;
        this.isRetryable = isRetryable;
        this.retryAfter = retryAfter;
    }

    /** A failure after which the retry policy decides. Its type is for programs, and for the policy. */
    public static ApplicationException retryable(String type, String message) {
        return new ApplicationException(type, message, true, null);
    }

    /** A failure that is tried again after a delay of its own, in place of the policy's. */
    public static ApplicationException retryableAfter(Duration delay, String type, String message) {
        return new ApplicationException(type, message, true, delay);
    }

    /** A failure that another attempt can't help. */
    public static ApplicationException nonRetryable(String type, String message) {
        return new ApplicationException(type, message, false, null);
    }

    public String type() {
        return type;
    }

    public boolean isRetryable() {
        return isRetryable;
    }

    /** The delay before the next attempt; null leaves it to the policy. */
    public Duration retryAfter() {
        return retryAfter;
    }
}
