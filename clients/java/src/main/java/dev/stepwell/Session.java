package dev.stepwell;

import static dev.stepwell.v1.WorkerServiceGrpc.getConnectMethod;
import static io.grpc.Status.Code.INVALID_ARGUMENT;
import static io.grpc.Status.Code.NOT_FOUND;
import static io.grpc.Status.Code.PERMISSION_DENIED;
import static io.grpc.Status.Code.UNAUTHENTICATED;
import static io.grpc.Status.Code.UNIMPLEMENTED;

import com.google.protobuf.Duration;
import dev.stepwell.v1.CompleteActivity;
import dev.stepwell.v1.ConnectRequest;
import dev.stepwell.v1.ConnectResponse;
import dev.stepwell.v1.Hello;
import dev.stepwell.v1.Payload;
import dev.stepwell.v1.ReleaseTask;
import dev.stepwell.v1.Report;
import dev.stepwell.v1.ReportResult;
import dev.stepwell.v1.Task;
import dev.stepwell.v1.TaskHeartbeat;
import dev.stepwell.v1.TaskRef;
import dev.stepwell.v1.Welcome;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import java.lang.System.Logger.Level;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ThreadLocalRandom;

/**
 * A worker's presence: the attempts that it holds, and one stream after another, each resuming what the one before held.
 *
 * <p>Its monitor guards all of it. The worker's own thread is in {@link #run}, looks ten times a second what is due, and
 * gives the monitor away in between; gRPC's callbacks and the threads of activities come in for moments.
 */
final class Session {
    private static final System.Logger LOG = System.getLogger(Session.class.getName());
    private static final Set<Status.Code> FINAL =
            Set.of(INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED, UNIMPLEMENTED);
    private static final long TICK_MILLIS = 100;
    private static final int SILENCE_TICKS = 300;
    private static final long FIRST_BACKOFF_MILLIS = 200;
    private static final long MOST_BACKOFF_MILLIS = 30_000;
    private static final long BEAT_MILLIS = 10_000;
    private static final long LAST_WORDS_MILLIS = 5_000;
    private static final long NEVER = Long.MAX_VALUE / 2;
    private static final int MESSAGE_BYTES = 1_000_000;

    final CompletableFuture<Void> connected = new CompletableFuture<>();
    final CompletableFuture<Void> ended = new CompletableFuture<>();
    private final Worker.Builder worker;
    /** By their tasks' ids: of each task there is the latest grant. */
    private final Map<String, Attempt> attempts = new LinkedHashMap<>();
    /** Those whose report is not answered yet, by their numbers. */
    private final Map<Long, Attempt> reported = new LinkedHashMap<>();
    /** What is to be said, in order, by what it is about: a report's number, a task, or a word such as `ping`. */
    private final Map<Object, ConnectRequest> outbox = new LinkedHashMap<>();
    /** What the service said of the session; without an id if there is none to resume. */
    private Welcome welcome = Welcome.getDefaultInstance();

    private Link link;
    private long numbers;
    private int tries;
    private long pingAt;
    private long releaseAt = NEVER;

    Session(Worker.Builder worker) {
        this.worker = worker;
    }

    /** Milliseconds of a clock that nobody sets. */
    private static long now() {
        return System.nanoTime() / 1_000_000;
    }

    private static long millis(Duration duration) {
        return duration.getSeconds() * 1000 + duration.getNanos() / 1_000_000;
    }

    /** Works until all is done after {@link #drain}, or the service refuses for good. */
    void run() {
        try {
            work();
        } catch (Throwable why) {
            LOG.log(Level.ERROR, "the worker has ended: {0}", why);
            connected.completeExceptionally(why);
            ended.completeExceptionally(why);
        }
        connected.cancel(false);
        ended.complete(null);
    }

    private synchronized void work() throws InterruptedException {
        try {
            link = new Link();
            while (!isOver()) {
                tick(now());
                wait(TICK_MILLIS);
            }
            // So that the service ends the session at once.
            link.call.sendMessage(ConnectRequest.newBuilder().setDrain(true).build());
            link.call.halfClose();
            for (long until = now() + LAST_WORDS_MILLIS; link.end == null && now() < until; ) {
                wait(TICK_MILLIS);
            }
            link.channel.shutdownNow();
        } finally {
            forget();
        }
    }

    /** Whether nothing is left to do before leaving, or no more time to do it in. */
    private boolean isOver() {
        return releaseAt != NEVER && attempts.isEmpty() || now() >= releaseAt + LAST_WORDS_MILLIS;
    }

    /** Asks for no more tasks; what is at work after the drain time is given back. */
    synchronized void drain() {
        releaseAt = Math.min(releaseAt, now() + worker.drainTime.toMillis());
        pingAt = 0;
        notifyAll();
    }

    /**
     * Does all that is due. Silence is counted in ticks, so that a process that was itself held up does not blame the
     * stream.
     */
    private void tick(long now) throws InterruptedException {
        if (link.end != null || ++link.silence > SILENCE_TICKS || now >= link.moveAt) {
            recover(link.end != null ? link.end : StepwellException.unavailable("it is silent, or to be moved"));
        } else if (now >= pingAt) {
            pingAt = now + millis(welcome.getHeartbeatInterval()) - 2 * TICK_MILLIS;
            say("ping", ConnectRequest.newBuilder().setPing(now).setDrain(releaseAt != NEVER));
        }
        for (Attempt attempt : List.copyOf(attempts.values())) {
            if (now >= attempt.beatAt) {
                attempt.beat();
            }
            if (now >= attempt.repeatAt) {
                attempt.say();
            }
            if (now >= releaseAt) {
                attempt.release("the worker is leaving");
            }
        }
        flush();
    }

    /** Leaves the stream, and opens another one after a while; throws what none can help. */
    private void recover(StepwellException why) throws InterruptedException {
        link.channel.shutdownNow();
        link.isWelcome = false;
        if (FINAL.contains(why.code())) {
            throw why;
        }
        if (why.reason().equals("SESSION_EXPIRED")) {
            forget();
        }
        long most = welcome.hasSessionTtl() ? millis(welcome.getSessionTtl()) / 4 : MOST_BACKOFF_MILLIS;
        long backoff = Math.min(most, FIRST_BACKOFF_MILLIS << Math.min(tries++, 16));
        long delay = why.retryMillis() + ThreadLocalRandom.current().nextLong(backoff) + 1;
        LOG.log(Level.INFO, "connecting again in {0} ms: {1}", delay, why);
        wait(delay);
        link = new Link();
    }

    /** The session is over: what it held is somebody else's. */
    private void forget() {
        List.copyOf(attempts.values()).forEach(this::drop);
        outbox.clear();
        welcome = Welcome.getDefaultInstance();
        tries = 0;
    }

    private void drop(Attempt attempt) {
        attempts.remove(attempt.task.getRef().getTaskId());
        reported.remove(attempt.number);
        outbox.remove(attempt.number);
        attempt.cancel();
    }

    /** Takes in a message: assigns first, since all else that it says may be about them. */
    private synchronized void take(Link from, ConnectResponse message) {
        if (from != link) {
            return;
        }
        link.silence = 0;
        if (message.hasWelcome()) {
            adopt(message.getWelcome());
        }
        message.getAssignsList().forEach(this::assign);
        message.getCancelsList().forEach(word -> find(word.getRef()).ifPresent(Attempt::cancel));
        message.getRevokesList().forEach(word -> find(word.getRef()).ifPresent(this::drop));
        message.getResultsList().forEach(this::answered);
        message.getHeartbeatsList().stream()
                // Of a lost task the report is made all the same: its place is given back with the answer.
                .filter(beat -> beat.getCancelRequested() || beat.getLost())
                .forEach(beat -> find(beat.getRef()).ifPresent(Attempt::cancel));
        if (message.getPing() != 0) {
            say("pong", ConnectRequest.newBuilder().setPong(message.getPing()));
        }
        if (message.hasRotate()) {
            long within = millis(message.getRotate().getWithin());
            link.moveAt = now() + ThreadLocalRandom.current().nextLong(within + 1);
        }
        flush();
    }

    /** Goes on with what the session still holds, and says again what was not answered. */
    private void adopt(Welcome told) {
        if (!told.getResumed()) {
            forget();
        }
        Set<TaskRef> held = new HashSet<>(told.getHeldList());
        List.copyOf(attempts.values()).stream()
                .filter(attempt -> attempt.report == null && !held.contains(attempt.task.getRef()))
                .forEach(this::drop);
        welcome = told;
        link.isWelcome = true;
        pingAt = 0;
        tries = 0;
        reported.values().forEach(Attempt::say);
        // What waits for it runs elsewhere: it may ask this session for something.
        connected.completeAsync(() -> null);
        LOG.log(Level.INFO, "connected: session {0}, resumed: {1}", told.getSessionId(), told.getResumed());
    }

    /** The attempt under just that grant. */
    private Optional<Attempt> find(TaskRef ref) {
        return Optional.ofNullable(attempts.get(ref.getTaskId()))
                .filter(attempt -> attempt.task.getRef().equals(ref));
    }

    /** Begins a task, unless it has been begun. An older grant of it is over. */
    private void assign(Task task) {
        TaskRef ref = task.getRef();
        Attempt former = attempts.get(ref.getTaskId());
        if (isOver() || former != null && former.task.getRef().getToken() >= ref.getToken()) {
            return;
        }
        if (former != null) {
            drop(former);
        }
        Attempt attempt = new Attempt(task);
        attempts.put(ref.getTaskId(), attempt);
        say(ref, ConnectRequest.newBuilder().addAcks(ref));
        if (worker.activities.containsKey(task.getType())) {
            attempt.thread.start();
        } else {
            attempt.release("activity " + task.getType() + " is not known here");
        }
    }

    private void answered(ReportResult result) {
        if (result.hasError()) {
            LOG.log(Level.INFO, "a report was refused: {0}", result.getError().getMessage());
        }
        Attempt attempt = reported.get(result.getCorrelation());
        if (attempt != null && result.getRemedy() == ReportResult.Remedy.REMEDY_REPEAT) {
            attempt.repeatAt = now() + millis(result.getRepeatDelay());
        } else if (attempt != null && result.getRemedy() == ReportResult.Remedy.REMEDY_FAIL) {
            StepwellException refusal = StepwellException.of(result.getError());
            attempt.report = null;
            end(attempt, Failures.of(ApplicationException.nonRetryable(refusal.reason(), refusal.getMessage()), false));
        } else if (attempt != null) {
            drop(attempt);
        }
    }

    /** Reports what came of an attempt, unless something is reported already, or it was dropped. */
    private synchronized void end(Attempt attempt, Report.Builder outcome) {
        if (attempt.report == null && attempts.get(attempt.task.getRef().getTaskId()) == attempt) {
            // What the next attempt needs to know goes out before it can begin.
            attempt.beat();
            outcome.setRef(attempt.task.getRef()).setCorrelation(attempt.number);
            attempt.report = outcome.build();
            reported.put(attempt.number, attempt);
            attempt.say();
            flush();
        }
    }

    /** Says something, in place of what was to be said about the same. */
    private void say(Object about, ConnectRequest.Builder word) {
        outbox.put(about, word.build());
    }

    /** Writes what there is to say as long as the connection takes it; the rest gathers until it does again. */
    private synchronized void flush() {
        while (link.isWelcome && link.call.isReady() && !outbox.isEmpty()) {
            ConnectRequest.Builder message = ConnectRequest.newBuilder();
            Iterator<ConnectRequest> words = outbox.values().iterator();
            int count = 0;
            int bytes = 0;
            do {
                ConnectRequest word = words.next();
                words.remove();
                message.mergeFrom(word);
                bytes += word.getSerializedSize();
            } while (++count < welcome.getMaxItems() && bytes < MESSAGE_BYTES && words.hasNext());
            link.call.sendMessage(message.build());
        }
    }

    /** One stream, over a connection of its own. */
    private final class Link extends ClientCall.Listener<ConnectResponse> {
        final ManagedChannel channel = worker.connections.get();
        final ClientCall<ConnectRequest, ConnectResponse> call =
                channel.newCall(getConnectMethod(), CallOptions.DEFAULT);
        boolean isWelcome;
        /** In ticks. A welcome is awaited for a third of what a later silence may take. */
        int silence = SILENCE_TICKS * 2 / 3;

        long moveAt = NEVER;
        volatile StepwellException end;

        Link() {
            Hello.Builder hello = worker.hello.clone().setSessionId(welcome.getSessionId());
            attempts.values().forEach(attempt -> hello.addHeld(attempt.task.getRef()));
            hello.addAllActivityTypes(worker.activities.keySet());
            call.start(this, new Metadata());
            call.request(1);
            call.sendMessage(ConnectRequest.newBuilder().setHello(hello).build());
        }

        @Override
        public void onReady() {
            flush();
        }

        @Override
        public void onMessage(ConnectResponse message) {
            take(this, message);
            call.request(1);
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            end = StepwellException.of(status.asRuntimeException(trailers));
        }
    }

    /** One attempt at an activity or a job, from its assignment until its report is answered. */
    private final class Attempt implements ActivityContext {
        final Task task;
        final long number = ++numbers;
        final Thread thread = new Thread(this::perform, "stepwell-activity");
        /** What came of it; null before. */
        Report report;

        long repeatAt = NEVER;
        private volatile boolean isCancelled;
        private volatile boolean hasBeat;
        private volatile TaskHeartbeat heartbeat;
        long beatAt;

        Attempt(Task task) {
            this.task = task;
            heartbeat = TaskHeartbeat.newBuilder().setRef(task.getRef()).build();
            thread.setDaemon(true);
        }

        @Override
        public Task task() {
            return task;
        }

        @Override
        public boolean isCancelled() {
            return isCancelled;
        }

        @Override
        public <T> Optional<T> heartbeatDetails(Class<T> type) {
            Optional<Task> before = Optional.of(task).filter(Task::hasHeartbeatDetails);
            return before.map(told -> worker.payloads.read(told.getHeartbeatDetails(), type));
        }

        @Override
        public void heartbeat(Object details) {
            if (details != null) {
                Payload told = worker.payloads.writeSmall(details);
                heartbeat = heartbeat.toBuilder().setDetails(told).build();
            }
            hasBeat = true;
        }

        private void perform() {
            Report.Builder outcome = Report.newBuilder();
            try {
                Payload result = worker.activities.get(task.getType()).perform(this, task.getInput());
                outcome.setComplete(CompleteActivity.newBuilder().setResult(result));
            } catch (Throwable thrown) {
                outcome = Failures.of(thrown, isCancelled);
            }
            end(this, outcome);
        }

        /** Says its report, or says it again, behind all else. */
        void say() {
            repeatAt = NEVER;
            outbox.remove(number);
            Session.this.say(number, ConnectRequest.newBuilder().addReports(report));
        }

        /** Says what gathered since the last heartbeat, and then nothing for half of what may lie between two. */
        void beat() {
            if (hasBeat && report == null) {
                hasBeat = false;
                beatAt = now() + (task.hasHeartbeatTimeout() ? millis(task.getHeartbeatTimeout()) : BEAT_MILLIS) / 2;
                Session.this.say(task.getRef(), ConnectRequest.newBuilder().addHeartbeats(heartbeat));
            }
        }

        void release(String reason) {
            end(this, Report.newBuilder().setRelease(ReleaseTask.newBuilder().setReason(reason)));
            cancel();
        }

        /** Asks the code to stop, once: so its clean-up may wait. */
        void cancel() {
            if (!isCancelled) {
                isCancelled = true;
                thread.interrupt();
            }
        }
    }
}
