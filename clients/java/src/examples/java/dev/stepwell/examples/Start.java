package dev.stepwell.examples;

import com.fasterxml.jackson.databind.JsonNode;
import dev.stepwell.Client;
import dev.stepwell.Connections;
import dev.stepwell.EndedException;
import dev.stepwell.StepwellException;
import dev.stepwell.v1.Payload;
import dev.stepwell.v1.StartJobRequest;
import dev.stepwell.v1.StartRunRequest;

/**
 * Starts a run or a job, waits for its end and prints what it came to. Whoever performs it may be written in another
 * language.
 *
 * <pre>
 * Start run greet '["Ada", "Grace"]'
 * Start job say '"Ada"'
 * </pre>
 */
public final class Start {
    private Start() {}

    public static void main(String[] arguments) {
        if (arguments.length != 3) {
            System.err.println("usage: Start run|job TYPE JSON");
            System.exit(2);
        }
        Connections connections = Connections.to(System.getenv().getOrDefault("STEPWELL_ADDRESS", "127.0.0.1:7233"));
        try (Client client = new Client(connections)) {
            System.out.println(start(client, arguments[0], arguments[1], arguments[2]));
        } catch (StepwellException refused) {
            System.err.println(refused.reason() + ": " + refused.getMessage());
            System.exit(1);
        } catch (EndedException ended) {
            System.err.println(ended.getMessage());
            System.exit(1);
        }
    }

    private static JsonNode start(Client client, String what, String type, String json) {
        Payload input = Payload.newBuilder().setJson(json).build();
        if (what.equals("job")) {
            String job =
                    client.startJob(StartJobRequest.newBuilder().setType(type).setInput(input));
            return client.jobResult(job, JsonNode.class);
        }
        String run = client.startRun(StartRunRequest.newBuilder().setType(type).setInput(input));
        return client.runResult(run, JsonNode.class);
    }
}
