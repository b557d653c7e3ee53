package dev.stepwell;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.core.type.TypeReference;
import dev.stepwell.v1.CancelJobRequest;
import dev.stepwell.v1.Failure;
import dev.stepwell.v1.GetJobRequest;
import dev.stepwell.v1.Job;
import dev.stepwell.v1.JobState;
import dev.stepwell.v1.StartJobRequest;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Predicate;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInfo;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.extension.ExtendWith;

@ExtendWith(Service.Provided.class)
@Timeout(180)
class WorkerTest {
    private Service service;
    private Client client;
    private String queue;

    @BeforeEach
    void connect(Service service, TestInfo test) {
        this.service = service;
        client = new Client(service.connections());
        queue = test.getDisplayName();
    }

    @AfterEach
    void disconnect() {
        client.close();
    }

    private Worker.Builder worker() {
        return Worker.builder(service.connections()).taskQueues(queue);
    }

    private String start(String type, Object input) {
        return client.startJob(request(type, input));
    }

    private StartJobRequest.Builder request(String type, Object input) {
        StartJobRequest.Builder request = StartJobRequest.newBuilder()
                .setType(type)
                .setTaskQueue(queue)
                .setInput(client.payloads().write(input));
        request.getRetryBuilder().getInitialIntervalBuilder().setNanos(1_000_000);
        return request;
    }

    private Job job(String id) {
        GetJobRequest request = GetJobRequest.newBuilder().setJobId(id).build();
        return client.call(client.jobs(), stub -> stub.getJob(request)).getJob();
    }

    private void cancel(String id) {
        CancelJobRequest request =
                CancelJobRequest.newBuilder().setJobId(id).setReason("enough").build();
        client.call(client.jobs(), stub -> stub.cancelJob(request));
    }

    /** Asks about a job until something holds. */
    private void soon(String id, Predicate<Job> holds) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        for (Job found = job(id); !holds.test(found); found = job(id)) {
            assertTrue(System.nanoTime() < end, found::toString);
            Thread.sleep(5);
        }
    }

    @Test
    void jobsAreCompleted() {
        try (Worker worker = worker().activity(
                        "sum", new TypeReference<List<Integer>>() {}, (context, numbers) -> numbers.stream()
                                .mapToInt(Integer::intValue)
                                .sum())
                .build()) {
            worker.start();
            List<String> jobs = java.util.stream.IntStream.range(0, 300)
                    .mapToObj(n -> start("sum", List.of(n, 1)))
                    .toList();
            for (int n = 0; n < jobs.size(); n++) {
                assertEquals(n + 1, client.jobResult(jobs.get(n), Integer.class));
            }
        }
    }

    /** A failure is tried again, and the next attempt gets what the one before told last. */
    @Test
    void nextAttemptGetsTheDetails() {
        try (Worker worker = worker().activity("counts", Void.class, (context, none) -> {
                    int before = context.heartbeatDetails(Integer.class).orElse(0);
                    for (int n = 1; n <= 3; n++) {
                        context.heartbeat(before + n);
                    }
                    if (context.task().getAttempt() < 3) {
                        throw new IllegalStateException("not yet");
                    }
                    return before;
                })
                .build()) {
            worker.start();
            assertEquals(6, client.jobResult(start("counts", null), Integer.class));
        }
    }

    @Test
    void finalFailureIsNotTriedAgain() {
        try (Worker worker = worker().activity("refuses", Map.class, (context, input) -> {
                    throw ApplicationException.nonRetryable("Never", "no\0");
                })
                .build()) {
            worker.start();
            String job = start("refuses", Map.of());
            EndedException ended = assertThrows(EndedException.class, () -> client.jobResult(job, String.class));
            assertEquals("FAILED", ended.state());
            assertEquals("Never", ended.failure().getType());
            assertEquals("no\uFFFD", ended.failure().getMessage());
            assertEquals(1, job(job).getAttempt());
        }
    }

    /** An input that does not fit, and a result that is too large, are failures and no trouble of the worker's. */
    @Test
    void whatIsNoPayloadFails() {
        try (Worker worker = worker().activity("repeats", Integer.class, (context, count) -> "a".repeat(count))
                .build()) {
            worker.start();
            String misfit = start("repeats", "many");
            String large = start("repeats", 2 * 1024 * 1024 - 1);
            assertEquals("InvalidInput", failure(misfit).getType());
            assertEquals("PayloadTooLarge", failure(large).getType());
            // With its quotes it has 2 MiB.
            String largest = start("repeats", 2 * 1024 * 1024 - 2);
            assertEquals(
                    2 * 1024 * 1024 - 2, client.jobResult(largest, String.class).length());
        }
    }

    private Failure failure(String job) {
        return assertThrows(EndedException.class, () -> client.jobResult(job, String.class))
                .failure();
    }

    /** What another attempt can't write either is tried once, and says what the mapper has against it. */
    @Test
    void unwritableResultFailsForGood() {
        try (Worker worker = worker().activity("tells", Void.class, (context, none) -> Instant.now())
                .build()) {
            worker.start();
            String job = start("tells", null);
            Failure failure = failure(job);
            assertEquals("InvalidResult", failure.getType());
            assertTrue(failure.getMessage().contains("jackson-datatype-jsr310"), failure::getMessage);
            assertEquals(1, job(job).getAttempt());
        }
    }

    record Order(String id) {}

    @Test
    void misfitSaysWhatDoesNotFit() {
        try (Worker worker = worker().activity("takes", Order.class, (context, order) -> order.id())
                .build()) {
            worker.start();
            String message = failure(start("takes", Map.of("name", "a"))).getMessage();
            assertTrue(message.contains("Unrecognized field \"name\""), message);
        }
    }

    /** An exception that can't say what it is about ends its attempt as any other does. */
    @Test
    void exceptionThatThrowsIsAFailure() {
        try (Worker worker = worker().activity("breaks", Void.class, (context, none) -> {
                    throw new Unsayable();
                })
                .build()) {
            worker.start();
            StartJobRequest.Builder request = request("breaks", null);
            request.getRetryBuilder().setMaximumAttempts(1);
            assertEquals("Unsayable", failure(client.startJob(request)).getType());
        }
    }

    private static final class Unsayable extends RuntimeException {
        private static final long serialVersionUID = 1L;

        @Override
        public String getMessage() {
            throw new NullPointerException("there is nothing to say");
        }
    }

    /** Retry policies and programs go by the type. */
    @Test
    void anonymousExceptionHasAType() {
        try (Worker worker = worker().activity("breaks", Void.class, (context, none) -> {
                    throw new IllegalStateException("nameless") {};
                })
                .build()) {
            worker.start();
            StartJobRequest.Builder request = request("breaks", null);
            request.getRetryBuilder().setMaximumAttempts(1);
            assertEquals(
                    "IllegalStateException", failure(client.startJob(request)).getType());
        }
    }

    @Test
    void cancelledJobStops() throws InterruptedException {
        CountDownLatch begun = new CountDownLatch(1);
        AtomicInteger stops = new AtomicInteger();
        try (Worker worker = worker().activity("waits", Void.class, (context, none) -> {
                    begun.countDown();
                    try {
                        new CountDownLatch(1).await();
                    } catch (InterruptedException stop) {
                        stops.addAndGet(context.isCancelled() ? 1 : 100);
                        throw new IllegalStateException("as code does that may throw nothing else", stop);
                    }
                    return null;
                })
                .build()) {
            worker.start();
            String job = start("waits", null);
            begun.await();
            cancel(job);
            EndedException ended = assertThrows(EndedException.class, () -> client.jobResult(job, String.class));
            assertEquals("CANCELLED", ended.state());
            assertEquals("", ended.failure().getType());
            assertEquals(1, stops.get());
        }
    }

    /** Cut in mid-activity the worker comes back with its task, and nothing is done twice. */
    @Test
    void cutStreamIsResumed() throws Exception {
        AtomicInteger begun = new AtomicInteger();
        Semaphore goOn = new Semaphore(0);
        try (Link link = new Link(service.port());
                Worker worker = Worker.builder(link.connections())
                        .taskQueues(queue)
                        .activity("slow", Integer.class, (context, number) -> {
                            begun.incrementAndGet();
                            context.heartbeat("begun");
                            goOn.acquire();
                            return number;
                        })
                        .build()) {
            worker.start();
            String job = start("slow", 7);
            // A task of which the service has heard nothing yet would go to anybody.
            soon(job, found -> found.hasHeartbeatDetails());
            link.cut();
            link.breakDown();
            goOn.release();
            // What it came to waits for the stream.
            link.mend();
            assertEquals(7, client.jobResult(job, Integer.class));
            assertEquals(1, begun.get());
            assertEquals(1, job(job).getAttempt());
        }
    }

    /** A report whose answer was lost is sent again, and its place given back. */
    @Test
    void unansweredReportIsSentAgain() throws Exception {
        Semaphore goOn = new Semaphore(0);
        try (Link link = new Link(service.port());
                Worker worker = Worker.builder(link.connections())
                        .taskQueues(queue)
                        .drainTime(Duration.ofHours(1))
                        .activity("slow", Integer.class, (context, number) -> {
                            context.heartbeat("begun");
                            goOn.acquire();
                            return number;
                        })
                        .build()) {
            worker.start();
            String job = start("slow", 7);
            soon(job, found -> found.hasHeartbeatDetails());
            link.muffle();
            goOn.release();
            assertEquals(7, client.jobResult(job, Integer.class));
            link.cut();
            // It ends once it has no task.
        }
    }

    /** A worker that was away for too long drops what it held, and takes it anew. */
    @Test
    void lostSessionIsFollowedByAnother() throws Exception {
        CountDownLatch stopped = new CountDownLatch(1);
        try (Link link = new Link(service.port());
                Worker worker = Worker.builder(link.connections())
                        .taskQueues(queue)
                        .activity("slow", Void.class, (context, none) -> {
                            context.heartbeat("begun");
                            if (context.task().getAttempt() == 1) {
                                try {
                                    new CountDownLatch(1).await();
                                } finally {
                                    stopped.countDown();
                                }
                            }
                            return context.task().getAttempt();
                        })
                        .build()) {
            worker.start();
            String job = start("slow", null);
            soon(job, found -> found.hasHeartbeatDetails());
            link.breakDown();
            soon(job, found -> found.getState() == JobState.JOB_STATE_PENDING);
            link.mend();
            assertEquals(2, client.jobResult(job, Integer.class));
            stopped.await();
        }
    }

    /** Asked to connect anew, the worker moves by a new connection, and its work does not notice. */
    @Test
    void rotationIsNotNoticed() throws InterruptedException {
        AtomicInteger begun = new AtomicInteger();
        Semaphore connections = new Semaphore(0);
        Semaphore goOn = new Semaphore(0);
        try (Worker worker = Worker.builder(() -> {
                    connections.release();
                    return service.connections().get();
                })
                .taskQueues(queue)
                .activity("slow", Void.class, (context, none) -> {
                    context.heartbeat("begun");
                    goOn.acquire();
                    return begun.incrementAndGet();
                })
                .build()) {
            worker.start();
            String job = start("slow", null);
            soon(job, found -> found.hasHeartbeatDetails());
            connections.acquire(2);
            goOn.release();
            assertEquals(1, client.jobResult(job, Integer.class));
            assertEquals(1, job(job).getAttempt());
        }
    }

    @Test
    void killedWorkerIsReplaced() throws Exception {
        Process first = process();
        String job = start("hold", Map.of("seconds", 3600));
        soon(job, found -> found.getState() == JobState.JOB_STATE_RUNNING);
        Process second = process();
        first.destroyForcibly().waitFor();
        soon(job, found -> found.getState() == JobState.JOB_STATE_RUNNING && found.getAttempt() == 2);
        cancel(job);
        assertEquals(
                "CANCELLED",
                assertThrows(EndedException.class, () -> client.jobResult(job, String.class))
                        .state());
        second.destroy();
        assertEquals(0, second.waitFor());
    }

    /** The conformance worker as a process of its own, once it is connected. */
    private Process process() throws Exception {
        ProcessBuilder builder = new ProcessBuilder("java", "-jar", System.getProperty("build") + "/conformance.jar")
                .redirectError(ProcessBuilder.Redirect.DISCARD);
        builder.environment().put("STEPWELL_ADDRESS", "127.0.0.1:" + service.port());
        builder.environment().put("STEPWELL_TASK_QUEUE", queue);
        Process process = builder.start();
        assertEquals("ready", process.inputReader().readLine());
        return process;
    }

    /** A worker that leaves takes no more tasks, though it has room, and ends what it has. */
    @Test
    void drainFinishesWhatIsAtWork() throws Exception {
        Semaphore begun = new Semaphore(0);
        List<CountDownLatch> goOn = List.of(new CountDownLatch(1), new CountDownLatch(1), new CountDownLatch(1));
        Worker leaving = worker().maxActivities(2)
                .drainTime(Duration.ofHours(1))
                .activity("slow", Integer.class, (context, number) -> {
                    begun.release();
                    goOn.get(number).await();
                    return "leaving";
                })
                .build()
                .start();
        List<String> jobs = List.of(start("slow", 0), start("slow", 1));
        begun.acquire(2);
        String later = start("slow", 2);
        leaving.shutdown();
        goOn.get(0).countDown();
        assertEquals("leaving", client.jobResult(jobs.get(0), String.class));
        try (Worker next = worker().activity("slow", Integer.class, (context, number) -> "next")
                .build()) {
            next.start();
            assertEquals("next", client.jobResult(later, String.class));
        }
        goOn.get(1).countDown();
        leaving.ended().get();
        assertEquals("leaving", client.jobResult(jobs.get(1), String.class));
    }

    /** What is not done within the drain time goes back, with what it told last, its attempt not spent. */
    @Test
    void drainGivesBackWhatTakesTooLong() throws InterruptedException {
        Semaphore begun = new Semaphore(0);
        Worker worker = worker().drainTime(Duration.ofMillis(1))
                .activity("slow", Void.class, (context, none) -> {
                    context.heartbeat("begun");
                    context.heartbeat("well on its way");
                    begun.release();
                    new CountDownLatch(1).await();
                    return null;
                })
                .build()
                .start();
        StartJobRequest.Builder request = request("slow", null);
        // Between two heartbeats lies half a minute, if nothing is due before.
        request.getHeartbeatTimeoutBuilder().setSeconds(60);
        String job = client.startJob(request);
        begun.acquire();
        worker.close();
        try (Worker next = worker().activity(
                        "slow",
                        Void.class,
                        (context, none) -> context.task().getAttempt()
                                + context.heartbeatDetails(String.class).orElse(""))
                .build()) {
            next.start();
            assertEquals("1well on its way", client.jobResult(job, String.class));
        }
    }

    /** As when what comes before its start has thrown. */
    @Test
    void workerThatNeverStartedIsClosed() {
        worker().build().close();
    }

    @Test
    void refusedWorkerEnds() {
        try (Worker worker = worker().namespace("nowhere")
                .activity("say", String.class, (context, name) -> name)
                .build()) {
            worker.start();
            ExecutionException ended =
                    assertThrows(ExecutionException.class, () -> worker.ended().get());
            assertEquals(
                    "NAMESPACE_NOT_FOUND",
                    assertInstanceOf(StepwellException.class, ended.getCause()).reason());
            assertTrue(worker.connected().isCompletedExceptionally());
        }
    }
}
