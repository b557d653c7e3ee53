package dev.stepwell.examples;

import dev.stepwell.Client;
import dev.stepwell.Connections;
import dev.stepwell.Worker;
import dev.stepwell.v1.StartJobRequest;

/** A worker, an activity and a program that has it performed as a job, in one. */
public final class Greet {
    private Greet() {}

    public static void main(String[] arguments) {
        Connections connections = Connections.to(System.getenv().getOrDefault("STEPWELL_ADDRESS", "127.0.0.1:7233"));
        try (Client client = new Client(connections);
                Worker worker = Worker.builder(connections)
                        .activity("say", String.class, (context, name) -> "Hello, " + name + "!")
                        .build()) {
            worker.start();
            String job = client.startJob(StartJobRequest.newBuilder()
                    .setType("say")
                    .setInput(client.payloads().write("Ada")));
            System.out.println(client.jobResult(job, String.class));
        }
    }
}
