package dev.stepwell;

import com.google.protobuf.Duration;
import dev.stepwell.v1.Job;
import dev.stepwell.v1.JobServiceGrpc;
import dev.stepwell.v1.JobServiceGrpc.JobServiceBlockingStub;
import dev.stepwell.v1.JobState;
import dev.stepwell.v1.Run;
import dev.stepwell.v1.RunPhase;
import dev.stepwell.v1.RunServiceGrpc;
import dev.stepwell.v1.RunServiceGrpc.RunServiceBlockingStub;
import dev.stepwell.v1.StartJobRequest;
import dev.stepwell.v1.StartRunRequest;
import dev.stepwell.v1.WaitJobRequest;
import dev.stepwell.v1.WaitJobResponse;
import dev.stepwell.v1.WaitRunRequest;
import dev.stepwell.v1.WaitRunResponse;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.AbstractBlockingStub;
import java.util.UUID;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * Starts runs and jobs, and waits for their ends. For all else there are the generated stubs: {@link #call} repeats what
 * they fail with in passing. Safe for use by several threads.
 */
public final class Client implements AutoCloseable {
    private static final long CALL_MILLIS = 60_000;
    private static final long ATTEMPT_MILLIS = 20_000;
    private static final long BACKOFF_MILLIS = 50;
    private static final long MOST_BACKOFF_MILLIS = 5_000;
    private static final Duration WAIT = Duration.newBuilder().setSeconds(15).build();

    private final ManagedChannel channel;
    private final String namespace;
    private final Payloads payloads;

    /** A client of the namespace {@code main}, with payloads as Jackson writes them. */
    public Client(Supplier<? extends ManagedChannel> connections) {
        this(connections, "main", new Payloads());
    }

    /** A client of a namespace, over one connection that is made when it is first needed. */
    public Client(Supplier<? extends ManagedChannel> connections, String namespace, Payloads payloads) {
        this.channel = connections.get();
        this.namespace = namespace;
        this.payloads = payloads;
    }

    /** The connection, for stubs that have no method here. */
    public ManagedChannel channel() {
        return channel;
    }

    /** How this client writes values. */
    public Payloads payloads() {
        return payloads;
    }

    /** The stub of jobs, to be used with {@link #call}. */
    public JobServiceBlockingStub jobs() {
        return JobServiceGrpc.newBlockingStub(channel);
    }

    /** The stub of runs, to be used with {@link #call}. */
    public RunServiceBlockingStub runs() {
        return RunServiceGrpc.newBlockingStub(channel);
    }

    /**
     * Has an activity performed without a run. It is recorded when this returns.
     *
     * @param request what to start; gets this client's namespace, and a request id if it has none, so that a repeat is
     *     recognised
     * @return the job's id
     */
    public String startJob(StartJobRequest.Builder request) {
        request.setNamespace(namespace);
        if (request.getRequestId().isEmpty()) {
            request.setRequestId(UUID.randomUUID().toString());
        }
        return call(jobs(), stub -> stub.startJob(request.build())).getJobId();
    }

    /**
     * Starts a run. It is recorded when this returns.
     *
     * @param request as for {@link #startJob}
     * @return the run's id
     */
    public String startRun(StartRunRequest.Builder request) {
        request.setNamespace(namespace);
        if (request.getRequestId().isEmpty()) {
            request.setRequestId(UUID.randomUUID().toString());
        }
        return call(runs(), stub -> stub.startRun(request.build())).getRunId();
    }

    /**
     * Waits for the end of a job.
     *
     * @return what it came to
     * @throws EndedException if it did not end well
     */
    public <T> T jobResult(String jobId, Class<T> type) {
        WaitJobRequest request = WaitJobRequest.newBuilder()
                .setNamespace(namespace)
                .setJobId(jobId)
                .setWait(WAIT)
                .build();
        WaitJobResponse answer;
        do {
            answer = call(jobs(), stub -> stub.waitJob(request));
        } while (!answer.getEnded());
        Job job = answer.getJob();
        if (job.getState() != JobState.JOB_STATE_COMPLETED) {
            throw new EndedException(jobId, job.getState().name().replace("JOB_STATE_", ""), job.getFailure());
        }
        return payloads.read(job.getResult(), type);
    }

    /**
     * Waits for the end of a run, and of those that continue it.
     *
     * @return what it came to
     * @throws EndedException if it did not end well
     */
    public <T> T runResult(String runId, Class<T> type) {
        WaitRunRequest request = WaitRunRequest.newBuilder()
                .setNamespace(namespace)
                .setRunId(runId)
                .setWait(WAIT)
                .build();
        WaitRunResponse answer;
        do {
            answer = call(runs(), stub -> stub.waitRun(request));
        } while (!answer.getEnded());
        Run run = answer.getRun();
        if (run.getPhase() != RunPhase.RUN_PHASE_COMPLETED) {
            throw new EndedException(runId, run.getPhase().name().replace("RUN_PHASE_", ""), run.getFailure());
        }
        return payloads.read(run.getResult(), type);
    }

    /**
     * Calls a method, and again what fails in passing, for a minute at most. It must be safe to repeat: it names what it
     * makes, says what shall be, or has a request id.
     *
     * @throws StepwellException when the service refuses, or did not answer in time
     */
    public <S extends AbstractBlockingStub<S>, A> A call(S stub, Function<S, A> method) {
        long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(CALL_MILLIS);
        for (int attempt = 0; ; attempt++) {
            long left = TimeUnit.NANOSECONDS.toMillis(end - System.nanoTime());
            try {
                return method.apply(stub.withDeadlineAfter(Math.min(left, ATTEMPT_MILLIS), TimeUnit.MILLISECONDS));
            } catch (StatusRuntimeException thrown) {
                StepwellException failed = StepwellException.of(thrown);
                long delay = backoff(attempt, failed);
                if (!mayRepeat(failed) || delay > left || !slept(delay)) {
                    throw failed;
                }
            }
        }
    }

    /** Whether a repeat may help: also of what somebody on the way cancelled, and not the caller. */
    private static boolean mayRepeat(StepwellException failed) {
        boolean isCallers =
                Thread.currentThread().isInterrupted() || Context.current().isCancelled();
        return failed.isPassing() || failed.code() == Status.Code.CANCELLED && !isCallers;
    }

    /** Full jitter, on top of the service's advice. */
    private static long backoff(int attempt, StepwellException failed) {
        long most = Math.min(MOST_BACKOFF_MILLIS, BACKOFF_MILLIS << Math.min(attempt, 16));
        return failed.retryMillis() + ThreadLocalRandom.current().nextLong(most);
    }

    private static boolean slept(long millis) {
        try {
            Thread.sleep(millis);
            return true;
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            return false;
        }
    }

    /** Ends the connection. What is still waited for fails. */
    @Override
    public void close() {
        channel.shutdownNow();
    }
}
