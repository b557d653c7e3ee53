package dev.stepwell;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Comparator;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;
import org.opentest4j.TestAbortedException;

/**
 * A service with a Postgres of its own, one for all tests. It is the {@code stepwell-server} that {@code STEPWELL_SERVER}
 * names, or that of the path; without one the tests are skipped, and fail where {@code CI} is set.
 */
final class Service implements AutoCloseable {
    private static final Pattern ANNOUNCED = Pattern.compile("serves on (\\S+):(\\d+)");

    private final Path folder;
    private Process process;
    private int port;

    private Service() throws Exception {
        folder = Files.createTempDirectory("stepwell-");
        try {
            // Postgres of root's runs as another account, which must be let in.
            Files.setPosixFilePermissions(folder, PosixFilePermissions.fromString("rwxr-xr-x"));
            process = begin(program());
            port = announced().get(3, TimeUnit.MINUTES);
        } catch (Exception failed) {
            close();
            throw failed;
        }
    }

    int port() {
        return port;
    }

    Connections connections() {
        return Connections.to("127.0.0.1:" + port);
    }

    private static String program() {
        String named = System.getenv("STEPWELL_SERVER");
        if (named != null && !named.isEmpty()) {
            return named;
        }
        return Stream.of(System.getenv("PATH").split(File.pathSeparator))
                .map(place -> Path.of(place, "stepwell-server"))
                .filter(Files::isExecutable)
                .map(Path::toString)
                .findFirst()
                .orElseThrow(Service::absent);
    }

    private static RuntimeException absent() {
        String why = "stepwell-server is not installed: STEPWELL_SERVER may name one";
        return System.getenv("CI") == null ? new TestAbortedException(why) : new IllegalStateException(why);
    }

    private Process begin(String program) throws IOException {
        boolean isLoud = System.getenv("STEPWELL_SERVER_LOG") != null;
        ProcessBuilder builder = new ProcessBuilder(
                        program, "dev", "--data-dir", folder.resolve("data").toString(), "--port", "0")
                .redirectError(isLoud ? ProcessBuilder.Redirect.INHERIT : ProcessBuilder.Redirect.DISCARD);
        builder.environment().put("STEPWELL_SESSION_SECONDS", "6");
        builder.environment().put("STEPWELL_HEARTBEAT_SECONDS", "1");
        // Workers are asked to move within the time of a test.
        builder.environment().put("STEPWELL_CONNECTION_SECONDS", "5");
        return builder.start();
    }

    /** Reads what the service says, to its end; gives the port that it tells. */
    private CompletableFuture<Integer> announced() {
        CompletableFuture<Integer> told = new CompletableFuture<>();
        Thread reader = new Thread(() -> {
            try (BufferedReader lines = process.inputReader()) {
                for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                    Matcher found = ANNOUNCED.matcher(line);
                    if (found.find()) {
                        told.complete(Integer.valueOf(found.group(2)));
                    }
                }
            } catch (IOException ended) {
                // The process has ended.
            }
            told.completeExceptionally(
                    new IllegalStateException("stepwell-server ended; STEPWELL_SERVER_LOG=1 shows what it says"));
        });
        reader.setDaemon(true);
        reader.start();
        return told;
    }

    @Override
    public void close() throws IOException {
        if (process != null) {
            process.destroy();
            process.onExit().completeOnTimeout(process, 20, TimeUnit.SECONDS).join();
            process.destroyForcibly().onExit().join();
        }
        try (Stream<Path> files = Files.walk(folder)) {
            for (Path file : (Iterable<Path>) files.sorted(Comparator.reverseOrder())::iterator) {
                Files.deleteIfExists(file);
            }
        }
    }

    /** Gives the service to each test that asks for it. */
    static final class Provided implements ParameterResolver {
        private static final ExtensionContext.Namespace PLACE = ExtensionContext.Namespace.create(Service.class);

        @Override
        public boolean supportsParameter(ParameterContext parameter, ExtensionContext test) {
            return parameter.getParameter().getType() == Service.class;
        }

        @Override
        public Object resolveParameter(ParameterContext parameter, ExtensionContext test) {
            return test.getRoot().getStore(PLACE).computeIfAbsent(Service.class, key -> started(), Service.class);
        }

        private static Service started() {
            try {
                return new Service();
            } catch (RuntimeException failed) {
                throw failed;
            } catch (Exception failed) {
                throw new IllegalStateException(failed);
            }
        }
    }
}
