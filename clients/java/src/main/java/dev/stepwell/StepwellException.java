package dev.stepwell;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;

/** A refusal of the service, or a call that did not come through. Programs go by its {@link #reason()}. */
public final class StepwellException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final Status.Code code;
    private transient ErrorInfo info = ErrorInfo.getDefaultInstance();
    private final transient Map<String, String> fields = new LinkedHashMap<>();
    private Duration retryDelay;

    private StepwellException(com.google.rpc.Status status, Throwable cause) {
        super(status.getMessage(), cause);
        code = Status.fromCodeValue(status.getCode()).getCode();
        try {
            for (Any detail : status.getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    info = detail.unpack(ErrorInfo.class);
                } else if (detail.is(RetryInfo.class)) {
                    com.google.protobuf.Duration delay =
                            detail.unpack(RetryInfo.class).getRetryDelay();
                    retryDelay = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
                } else if (detail.is(BadRequest.class)) {
                    detail.unpack(BadRequest.class)
                            .getFieldViolationsList()
                            .forEach(violation -> fields.put(violation.getField(), violation.getDescription()));
                }
            }
        } catch (InvalidProtocolBufferException unreadable) {
            addSuppressed(unreadable);
        }
    }

    /** Reads what a call failed with. */
    public static StepwellException of(Throwable thrown) {
        if (thrown instanceof StepwellException known) {
            return known;
        }
        Metadata trailers = Status.trailersFromThrowable(thrown);
        Status status = Status.fromThrowable(thrown);
        // What has a cause was not said by the service: a connection broke, and the first of the causes says of what.
        for (Throwable cause = status.getCause(); cause != null; cause = cause.getCause()) {
            if (cause.getCause() == null) {
                status = status.augmentDescription(String.valueOf(cause.getMessage()));
            }
        }
        return new StepwellException(StatusProto.fromStatusAndTrailers(status, trailers), thrown);
    }

    static StepwellException of(com.google.rpc.Status status) {
        return new StepwellException(status, null);
    }

    static StepwellException unavailable(String message) {
        return of(Status.UNAVAILABLE.withDescription(message).asRuntimeException());
    }

    /** The canonical code. */
    public Status.Code code() {
        return code;
    }

    /** One of {@code proto/stepwell/v1/error_reason.proto}, such as {@code RUN_NOT_FOUND}; empty if there is none. */
    public String reason() {
        return info.getReason();
    }

    /** The facts of the reason, such as the run's id. */
    public Map<String, String> metadata() {
        return info.getMetadataMap();
    }

    /** What is wrong with which field of the request. */
    public Map<String, String> fields() {
        return fields;
    }

    /** The service's advice when to try again. */
    public Optional<Duration> retryDelay() {
        return Optional.ofNullable(retryDelay);
    }

    /** The same in milliseconds; 0 if there is none. */
    long retryMillis() {
        return retryDelay().map(Duration::toMillis).orElse(0L);
    }

    /** Whether the same call may succeed a little later. */
    public boolean isPassing() {
        return switch (code) {
            case UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED -> true;
            default -> retryDelay != null;
        };
    }

    @Override
    public String toString() {
        return "StepwellException: " + (reason().isEmpty() ? code : reason()) + ": " + getMessage();
    }
}
