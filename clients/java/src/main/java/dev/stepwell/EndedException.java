package dev.stepwell;

import dev.stepwell.v1.Failure;

/** A run or a job that did not end well. */
public final class EndedException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final String state;
    private final transient Failure failure;

    EndedException(String id, String state, Failure failure) {
        super(id + " ended " + state + (failure.getType().isEmpty() ? "" : ": " + failure.getType())
                + (failure.getMessage().isEmpty() ? "" : ": " + failure.getMessage()));
        this.state = state;
        this.failure = failure;
    }

    /** How it ended: {@code FAILED}, {@code CANCELLED}, {@code TERMINATED} or {@code TIMED_OUT}. */
    public String state() {
        return state;
    }

    /** Why; without a type and a message if nothing is recorded of it. */
    public Failure failure() {
        return failure;
    }
}
