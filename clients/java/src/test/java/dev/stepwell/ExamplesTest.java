package dev.stepwell;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.extension.ExtendWith;

/** The examples, as somebody runs them. */
@ExtendWith(Service.Provided.class)
@Timeout(180)
class ExamplesTest {
    @Test
    void greetGreets(Service service) throws Exception {
        Process greet = example(service, "Greet");
        assertEquals("Hello, Ada!", greet.inputReader().readLine());
        assertEquals(0, greet.waitFor());
    }

    @Test
    void startTellsWhatIsWrong(Service service) throws Exception {
        Process start = example(service, "Start", "job", "", "null");
        assertEquals("INVALID_FIELD", start.errorReader().readLine().split(":")[0]);
        assertEquals(1, start.waitFor());
    }

    private static Process example(Service service, String name, String... arguments) throws IOException {
        String build = System.getProperty("build");
        String classPath = String.join(":", build + "/test-classes", build + "/classes", build + "/lib/*");
        ProcessBuilder builder = new ProcessBuilder("java", "-cp", classPath, "dev.stepwell.examples." + name);
        builder.command().addAll(java.util.List.of(arguments));
        builder.environment().put("STEPWELL_ADDRESS", "127.0.0.1:" + service.port());
        return builder.start();
    }
}
