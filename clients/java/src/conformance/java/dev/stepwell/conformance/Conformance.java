package dev.stepwell.conformance;

import com.fasterxml.jackson.databind.JsonNode;
import dev.stepwell.Connections;
import dev.stepwell.Worker;

/**
 * The worker that the conformance kit tries Stepwell for Java by: a plain program of the library, with the activities that
 * docs/conformance.md asks of each language.
 *
 * <pre>stepwell conformance --only activities -- java -jar clients/java/target/conformance.jar</pre>
 */
public final class Conformance {
    private Conformance() {}

    public static void main(String[] arguments) {
        Activities activities = new Activities(setting("STEPWELL_LEDGER", ""));
        Worker worker = Worker.builder(Connections.to(setting("STEPWELL_ADDRESS", "127.0.0.1:7233")))
                .namespace(setting("STEPWELL_NAMESPACE", "main"))
                .taskQueues(setting("STEPWELL_TASK_QUEUE", "conformance"))
                .maxActivities(Integer.parseInt(setting("STEPWELL_MAX_ACTIVITIES", "10")))
                .activity("echo", JsonNode.class, activities::echo)
                .activity("fail", Activities.Fail.class, activities::fail)
                .activity("flaky", Activities.Flaky.class, activities::flaky)
                .activity("hold", Activities.Hold.class, activities::hold)
                .activity("beat", Activities.Beat.class, activities::beat)
                .activity("effect", Activities.Effect.class, activities::effect)
                .build()
                .start();
        // A signal ends this process with a code that tells which, unless it is ended here.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            worker.close();
            Runtime.getRuntime().halt(worker.ended().isCompletedExceptionally() ? 1 : 0);
        }));
        worker.connected().thenRun(() -> System.out.println("ready"));
        worker.ended().join();
    }

    private static String setting(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? otherwise : value;
    }
}
