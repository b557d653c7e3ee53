package dev.stepwell;

import com.fasterxml.jackson.core.type.TypeReference;
import dev.stepwell.v1.Capacity;
import dev.stepwell.v1.CapacityUpdate;
import dev.stepwell.v1.Hello;
import dev.stepwell.v1.Payload;
import dev.stepwell.v1.TaskKind;
import io.grpc.ManagedChannel;
import java.lang.management.ManagementFactory;
import java.lang.reflect.Type;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.function.Supplier;

/**
 * Performs activities and jobs: takes tasks off a stream, calls the code of their types, and reports what came of them.
 * It connects again whenever the stream breaks, and goes on with what it holds.
 */
public final class Worker implements AutoCloseable {
    private final Session session;
    private final Thread thread;

    private Worker(Builder builder) {
        session = new Session(builder);
        thread = new Thread(session::run, "stepwell-worker");
    }

    /**
     * Begins a worker's description.
     *
     * @param connections makes a new connection each time: a worker that is asked to move opens another
     */
    public static Builder builder(Supplier<? extends ManagedChannel> connections) {
        return new Builder(connections);
    }

    /**
     * Starts to work, in threads of its own.
     *
     * @throws IllegalThreadStateException if it was started before: a worker starts once
     */
    public Worker start() {
        thread.start();
        return this;
    }

    /** Comes true once the service has first said welcome. */
    public CompletableFuture<Void> connected() {
        return session.connected.copy();
    }

    /**
     * Comes true once the worker has ended: after {@link #shutdown}, or with a {@link StepwellException} when the service
     * refuses it for good: a wrong key, an unknown namespace.
     */
    public CompletableFuture<Void> ended() {
        return session.ended.copy();
    }

    /** Takes no more tasks, and ends when those at work are done, or given back after the drain time. Safe to repeat. */
    public void shutdown() {
        session.drain();
    }

    /** {@link #shutdown}, and waits for the end, or until the caller's thread is interrupted. */
    @Override
    public void close() {
        shutdown();
        try {
            thread.join();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    /** Describes a worker. */
    public static final class Builder {
        final Supplier<? extends ManagedChannel> connections;
        final Map<String, Activity<Payload, Payload>> activities = new HashMap<>();
        final Hello.Builder hello =
                Hello.newBuilder().setNamespace("main").addTaskQueues("default").setSdk(Connections.SDK);
        Payloads payloads = new Payloads();
        Duration drainTime = Duration.ofSeconds(30);

        private Builder(Supplier<? extends ManagedChannel> connections) {
            this.connections = connections;
            String identity = ManagementFactory.getRuntimeMXBean().getName();
            String random = UUID.randomUUID().toString().substring(0, 8);
            hello.setIdentity(identity).setWorkerId(identity + "/" + random);
            maxActivities(100);
        }

        /** The namespace of its tasks. Default: {@code main}. */
        public Builder namespace(String namespace) {
            hello.setNamespace(namespace);
            return this;
        }

        /** The queues that it takes tasks from. Default: {@code default}. */
        public Builder taskQueues(String... taskQueues) {
            hello.clearTaskQueues().addAllTaskQueues(List.of(taskQueues));
            return this;
        }

        /** How many activities and jobs it performs at once, each in a thread. Default: 100. */
        public Builder maxActivities(int maxActivities) {
            Capacity.Builder capacity = Capacity.newBuilder().setKind(TaskKind.TASK_KIND_ACTIVITY);
            hello.setCapacity(CapacityUpdate.newBuilder().addCapacities(capacity.setMaxOutstanding(maxActivities)));
            return this;
        }

        /** Its id, which stays the same over reconnects. Default: host, process and a random part. */
        public Builder workerId(String workerId) {
            hello.setWorkerId(workerId);
            return this;
        }

        /** What it gives its work to end when it leaves. Default: 30 s. */
        public Builder drainTime(Duration drainTime) {
            this.drainTime = drainTime;
            return this;
        }

        /** How values are written. Default: as Jackson does. */
        public Builder payloads(Payloads payloads) {
            this.payloads = payloads;
            return this;
        }

        /**
         * What performs activities and jobs of a type, which are given an {@code input}. An input that does not fit fails
         * them with the type {@code InvalidInput}, a result that can't be written with {@code InvalidResult}, one of more
         * than 2 MiB with {@code PayloadTooLarge}: all three for good.
         */
        public <I, O> Builder activity(String type, Class<I> input, Activity<I, O> activity) {
            return activity(type, (Type) input, activity);
        }

        /** The same for inputs with type parameters, such as a list's. */
        public <I, O> Builder activity(String type, TypeReference<I> input, Activity<I, O> activity) {
            return activity(type, input.getType(), activity);
        }

        private <I, O> Builder activity(String type, Type input, Activity<I, O> activity) {
            activities.put(type, (context, payload) -> {
                I value;
                try {
                    value = payloads.read(payload, input);
                } catch (IllegalArgumentException misfit) {
                    throw ApplicationException.nonRetryable("InvalidInput", misfit.getMessage());
                }
                O result = activity.perform(context, value);
                try {
                    return payloads.writeSmall(result);
                } catch (IllegalArgumentException unwritable) {
                    throw ApplicationException.nonRetryable("InvalidResult", unwritable.getMessage());
                }
            });
            return this;
        }

        /** A worker that is yet to be started. What it was described by is its own from here on. */
        public Worker build() {
            return new Worker(this);
        }
    }
}
