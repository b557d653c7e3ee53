package dev.stepwell;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.stepwell.v1.ClaimTasksRequest;
import dev.stepwell.v1.CompleteRun;
import dev.stepwell.v1.FailRun;
import dev.stepwell.v1.Failure;
import dev.stepwell.v1.GetJobRequest;
import dev.stepwell.v1.Hello;
import dev.stepwell.v1.OpenSessionRequest;
import dev.stepwell.v1.Progress;
import dev.stepwell.v1.Report;
import dev.stepwell.v1.ReportTasksRequest;
import dev.stepwell.v1.StartJobRequest;
import dev.stepwell.v1.StartRunRequest;
import dev.stepwell.v1.Task;
import dev.stepwell.v1.WorkerServiceGrpc;
import dev.stepwell.v1.WorkerServiceGrpc.WorkerServiceBlockingStub;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInfo;
import org.junit.jupiter.api.extension.ExtendWith;

@ExtendWith(Service.Provided.class)
class ClientTest {
    /** A repeat with the same request id starts nothing; the result is that of the run. */
    @Test
    void runIsStartedOnce(Service service, TestInfo test) {
        try (Client client = new Client(service.connections())) {
            StartRunRequest.Builder request = StartRunRequest.newBuilder()
                    .setType("greet")
                    .setTaskQueue(test.getDisplayName())
                    .setRequestId(UUID.randomUUID().toString());
            String run = client.startRun(request);
            assertEquals(run, client.startRun(request));
            advance(
                    client,
                    test,
                    Progress.newBuilder()
                            .setComplete(CompleteRun.newBuilder()
                                    .setResult(client.payloads().write(List.of("Hello")))));
            assertEquals(List.of("Hello"), client.runResult(run, List.class));
        }
    }

    /** What a run failed with is what its waiter gets. */
    @Test
    void failureOfARunIsTold(Service service, TestInfo test) {
        try (Client client = new Client(service.connections())) {
            String run = client.startRun(
                    StartRunRequest.newBuilder().setType("greet").setTaskQueue(test.getDisplayName()));
            advance(
                    client,
                    test,
                    Progress.newBuilder()
                            .setFail(FailRun.newBuilder()
                                    .setFailure(Failure.newBuilder()
                                            .setType("Never")
                                            .setMessage("no"))));
            EndedException ended = assertThrows(EndedException.class, () -> client.runResult(run, String.class));
            assertEquals("FAILED", ended.state());
            assertEquals("Never", ended.failure().getType());
        }
    }

    /** A wrong request is refused once, with a reason and the field. */
    @Test
    void wrongInputHasAReason(Service service) {
        try (Client client = new Client(service.connections())) {
            StepwellException refused =
                    assertThrows(StepwellException.class, () -> client.startJob(StartJobRequest.newBuilder()));
            assertEquals("INVALID_FIELD", refused.reason());
            assertEquals(Status.Code.INVALID_ARGUMENT, refused.code());
            assertTrue(refused.fields().containsKey("type"), refused.fields()::toString);
            assertEquals("type", refused.metadata().get("field"));
        }
    }

    /** What somebody on the way cancelled, or could not pass on, is tried again. */
    @Test
    void passingFailuresAreRepeated(Service service, TestInfo test) {
        try (Client client = new Client(service.connections())) {
            Failing failing = new Failing(Status.CANCELLED, Status.UNAVAILABLE, Status.ABORTED);
            StartJobRequest request = StartJobRequest.newBuilder()
                    .setType("nobody's")
                    .setTaskQueue(test.getDisplayName())
                    .setRequestId(UUID.randomUUID().toString())
                    .build();
            client.call(client.jobs().withInterceptors(failing), stub -> stub.startJob(request));
            assertEquals(4, failing.calls.get());
        }
    }

    /** A caller that has cancelled wants no repeat. */
    @Test
    void cancelledCallerIsLeftAlone(Service service) {
        try (Client client = new Client(service.connections());
                Context.CancellableContext cancelled = Context.current().withCancellation()) {
            Failing failing = new Failing();
            cancelled.cancel(null);
            cancelled.run(() -> {
                StepwellException failed = assertThrows(
                        StepwellException.class,
                        () -> client.call(
                                client.jobs().withInterceptors(failing),
                                stub -> stub.startJob(StartJobRequest.getDefaultInstance())));
                assertEquals(Status.Code.CANCELLED, failed.code());
            });
            assertEquals(1, failing.calls.get());
        }
    }

    /** Advances the one run of the test's queue to its end, by unary calls. */
    private static void advance(Client client, TestInfo test, Progress.Builder progress) {
        WorkerServiceBlockingStub workers = WorkerServiceGrpc.newBlockingStub(client.channel());
        Hello hello = Hello.newBuilder()
                .setWorkerId("by hand")
                .addTaskQueues(test.getDisplayName())
                .addWorkflowTypes("greet")
                .build();
        String session = workers.openSession(
                        OpenSessionRequest.newBuilder().setHello(hello).build())
                .getWelcome()
                .getSessionId();
        ClaimTasksRequest.Builder claim = ClaimTasksRequest.newBuilder().setSessionId(session);
        claim.getWaitBuilder().setSeconds(10);
        Task task = workers.claimTasks(claim.build()).getTasks(0);
        Report report = Report.newBuilder()
                .setCorrelation(1)
                .setRef(task.getRef())
                .setProgress(progress)
                .build();
        workers.reportTasks(ReportTasksRequest.newBuilder()
                .setSessionId(session)
                .addReports(report)
                .build());
    }

    /** Counts calls, and ends the first ones before they leave. */
    private static final class Failing implements ClientInterceptor {
        private final Status[] first;
        private final AtomicInteger calls = new AtomicInteger();

        Failing(Status... first) {
            this.first = first;
        }

        @Override
        public <Q, A> ClientCall<Q, A> interceptCall(MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
            int number = calls.getAndIncrement();
            return number < first.length ? new Failed<>(first[number]) : next.newCall(method, options);
        }
    }

    /** A call that has ended before it began. */
    private static final class Failed<Q, A> extends ClientCall<Q, A> {
        private final Status status;

        Failed(Status status) {
            this.status = status;
        }

        @Override
        public void start(Listener<A> listener, Metadata headers) {
            listener.onClose(status, new Metadata());
        }

        @Override
        public void request(int count) {}

        @Override
        public void cancel(String message, Throwable cause) {}

        @Override
        public void halfClose() {}

        @Override
        public void sendMessage(Q message) {}
    }

    /** Who has mistaken an address or a certificate reads what is wrong with it. */
    @Test
    void brokenConnectionSaysWhy() throws IOException {
        int port;
        try (ServerSocket free = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            port = free.getLocalPort();
        }
        try (Client client = new Client(Connections.to("127.0.0.1:" + port))) {
            StatusRuntimeException thrown = assertThrows(
                    StatusRuntimeException.class, () -> client.jobs().getJob(GetJobRequest.getDefaultInstance()));
            String message = StepwellException.of(thrown).getMessage();
            assertTrue(message.contains("Connection refused"), message);
        }
    }
}
