package dev.stepwell;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.stepwell.v1.Payload;
import java.lang.reflect.Type;

/** Turns values into payloads and back, as JSON. A payload without a body is the null value. */
public final class Payloads {
    private static final int MOST_BYTES = 2 << 20;

    private final ObjectMapper mapper;

    /** Payloads as Jackson writes them without being told anything. */
    public Payloads() {
        this(new ObjectMapper());
    }

    /** Payloads as a mapper writes them. */
    public Payloads(ObjectMapper mapper) {
        this.mapper = mapper;
    }

    /**
     * Spells a value.
     *
     * @throws IllegalArgumentException if the mapper can't write it, with what it says
     */
    public Payload write(Object value) {
        if (value == null || value instanceof JsonNode node && node.isNull()) {
            return Payload.getDefaultInstance();
        }
        try {
            return Payload.newBuilder()
                    .setJson(mapper.writeValueAsString(value))
                    .build();
        } catch (JsonProcessingException unwritable) {
            throw new IllegalArgumentException(
                    "a " + value.getClass().getName() + " is not to be written as JSON: "
                            + unwritable.getOriginalMessage(),
                    unwritable);
        }
    }

    /** Spells what a worker has to say. What is larger would be refused, and all else in the same message with it. */
    Payload writeSmall(Object value) {
        Payload payload = write(value);
        if (payload.getJsonBytes().size() > MOST_BYTES) {
            throw ApplicationException.nonRetryable("PayloadTooLarge", "a value of more than 2 MiB: give a reference");
        }
        return payload;
    }

    /**
     * Reads a value.
     *
     * @throws IllegalArgumentException if the payload holds something else, with what the mapper says
     */
    public <T> T read(Payload payload, Class<T> type) {
        return read(payload, (Type) type);
    }

    <T> T read(Payload payload, Type type) {
        String json =
                switch (payload.getBodyCase()) {
                    case BODY_NOT_SET -> "null";
                    case JSON -> payload.getJson();
                    default -> throw new IllegalArgumentException("the payload holds bytes and no JSON");
                };
        try {
            return mapper.readValue(json, mapper.constructType(type));
        } catch (JsonProcessingException unreadable) {
            throw new IllegalArgumentException(
                    "the payload does not fit a " + type.getTypeName() + ": " + unreadable.getOriginalMessage(),
                    unreadable);
        }
    }
}
