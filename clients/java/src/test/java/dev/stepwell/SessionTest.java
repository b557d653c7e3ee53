package dev.stepwell;

import static org.junit.jupiter.api.Assertions.assertEquals;

import dev.stepwell.v1.ConnectRequest;
import dev.stepwell.v1.ConnectResponse;
import dev.stepwell.v1.Report;
import dev.stepwell.v1.Task;
import dev.stepwell.v1.TaskRef;
import dev.stepwell.v1.Welcome;
import dev.stepwell.v1.WorkerServiceGrpc;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.parallel.Isolated;

/** What a service seldom says, or only at the wrong moment: said here by the test. */
@Timeout(60)
@Isolated("It waits for the threads of activities.")
class SessionTest {
    private final BlockingQueue<Report> reports = new LinkedBlockingQueue<>();
    private final CompletableFuture<StreamObserver<ConnectResponse>> stream = new CompletableFuture<>();
    private final CountDownLatch halfClosed = new CountDownLatch(1);
    private Server server;

    @BeforeEach
    void serve() throws IOException {
        server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
                .addService(new Told())
                .build()
                .start();
    }

    @AfterEach
    void end() {
        server.shutdownNow();
    }

    private final class Told extends WorkerServiceGrpc.WorkerServiceImplBase {
        @Override
        public StreamObserver<ConnectRequest> connect(StreamObserver<ConnectResponse> answers) {
            Welcome welcome = Welcome.newBuilder()
                    .setSessionId("session")
                    .setMaxItems(256)
                    .build();
            answers.onNext(ConnectResponse.newBuilder().setWelcome(welcome).build());
            stream.complete(answers);
            return new StreamObserver<>() {
                @Override
                public void onNext(ConnectRequest message) {
                    reports.addAll(message.getReportsList());
                }

                @Override
                public void onError(Throwable broken) {
                    // The worker has left.
                }

                @Override
                public void onCompleted() {
                    halfClosed.countDown();
                }
            };
        }
    }

    private Worker.Builder worker() {
        return Worker.builder(Connections.to("127.0.0.1:" + server.getPort()));
    }

    private void assign(int token) {
        TaskRef ref = TaskRef.newBuilder().setTaskId("task").setToken(token).build();
        Task task =
                Task.newBuilder().setRef(ref).setType("act").setAttempt(token).build();
        stream.join().onNext(ConnectResponse.newBuilder().addAssigns(task).build());
    }

    /** The service may say so before, or instead of, the word that takes the older grant back. */
    @Test
    void newerGrantEndsTheOlderOne() throws InterruptedException {
        CountDownLatch begun = new CountDownLatch(1);
        CountDownLatch stopped = new CountDownLatch(1);
        worker().activity("act", Void.class, (context, none) -> {
                    if (context.task().getAttempt() == 1) {
                        begun.countDown();
                        try {
                            new CountDownLatch(1).await();
                        } finally {
                            stopped.countDown();
                        }
                    }
                    stopped.await();
                    return null;
                })
                .build()
                .start();
        assign(1);
        begun.await();
        assign(2);
        assertEquals(2, reports.take().getRef().getToken());
    }

    /** A task that crosses the worker's last word goes to another, and is not begun here to be broken off. */
    @Test
    void whoHasLeftBeginsNothing() throws Exception {
        AtomicInteger begun = new AtomicInteger();
        Worker worker = worker().activity("act", Void.class, (context, none) -> begun.incrementAndGet())
                .build()
                .start();
        stream.join();
        worker.connected().get();
        worker.shutdown();
        halfClosed.await();
        assign(1);
        stream.join().onCompleted();
        worker.ended().get();
        for (Thread thread : Thread.getAllStackTraces().keySet()) {
            if (thread.getName().equals("stepwell-activity")) {
                thread.join();
            }
        }
        assertEquals(0, begun.get());
    }
}
