package dev.stepwell.conformance;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.stepwell.ActivityContext;
import dev.stepwell.ApplicationException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

/** What each conformance worker's activities do. */
final class Activities {
    record Fail(
            String message,
            String kind,
            @JsonProperty("non_retryable") boolean nonRetryable) {}

    record Flaky(int failures) {}

    record Hold(double seconds) {}

    record Beat(double seconds, double every, boolean crash) {}

    record Details(int beat) {}

    record Beats(@JsonProperty("resumed_from") Integer resumedFrom, int beats) {}

    record Effect(String key, double seconds) {}

    record Line(String key, String language, long pid, int attempt, double time) {}

    private static final int CRASH_BEATS = 3;

    private final ObjectMapper mapper = new ObjectMapper();
    private final String ledger;

    Activities(String ledger) {
        this.ledger = ledger;
    }

    JsonNode echo(ActivityContext context, JsonNode value) {
        return value;
    }

    Object fail(ActivityContext context, Fail told) {
        throw told.nonRetryable()
                ? ApplicationException.nonRetryable(told.kind(), told.message())
                : ApplicationException.retryable(told.kind(), told.message());
    }

    int flaky(ActivityContext context, Flaky told) {
        int attempt = context.task().getAttempt();
        if (attempt <= told.failures()) {
            throw ApplicationException.retryable("Flaky", "attempt " + attempt + " fails");
        }
        return attempt;
    }

    String hold(ActivityContext context, Hold told) throws InterruptedException {
        pause(told.seconds());
        return "held";
    }

    Beats beat(ActivityContext context, Beat told) throws InterruptedException {
        Optional<Details> before = context.heartbeatDetails(Details.class);
        int first = before.map(Details::beat).orElse(0);
        int number = first;
        boolean crashes = told.crash() && context.task().getAttempt() == 1;
        long end = System.nanoTime() + nanos(told.seconds());
        while (System.nanoTime() < end) {
            number++;
            context.heartbeat(new Details(number));
            if (crashes && number - first == CRASH_BEATS) {
                throw ApplicationException.retryable("Crash", "told to crash");
            }
            pause(told.every());
        }
        return new Beats(before.map(Details::beat).orElse(null), number);
    }

    /** Has an effect outside of Stepwell, a line of the ledger, and then takes a while to say so. */
    String effect(ActivityContext context, Effect told) throws IOException, InterruptedException {
        if (!ledger.isEmpty()) {
            double now = System.currentTimeMillis() / 1000.0;
            long pid = ProcessHandle.current().pid();
            Line line = new Line(told.key(), "java", pid, context.task().getAttempt(), now);
            byte[] text = (mapper.writeValueAsString(line) + "\n").getBytes(StandardCharsets.UTF_8);
            Files.write(Path.of(ledger), text, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        }
        pause(told.seconds());
        return told.key();
    }

    private static void pause(double seconds) throws InterruptedException {
        TimeUnit.NANOSECONDS.sleep(nanos(seconds));
    }

    private static long nanos(double seconds) {
        return (long) (seconds * 1_000_000_000);
    }
}
