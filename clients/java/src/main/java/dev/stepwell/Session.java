package dev.stepwell;

import static io.grpc.Status.Code.INVALID_ARGUMENT;
import static io.grpc.Status.Code.NOT_FOUND;
import static io.grpc.Status.Code.PERMISSION_DENIED;
import static io.grpc.Status.Code.UNAUTHENTICATED;
import static io.grpc.Status.Code.UNIMPLEMENTED;

import com.google.protobuf.Duration;
import dev.stepwell.v1.ConnectRequest;
import dev.stepwell.v1.ConnectResponse;
import dev.stepwell.v1.Hello;
import dev.stepwell.v1.ReportResult;
import dev.stepwell.v1.Task;
import dev.stepwell.v1.TaskHeartbeat;
import dev.stepwell.v1.TaskRef;
import dev.stepwell.v1.Welcome;
import dev.stepwell.v1.WorkerServiceGrpc;
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
 * <p>Its monitor guards it and them. The worker's own thread, in {@link #run}, looks ten times a second what is due;
 * gRPC's callbacks and the threads of activities come in for moments. Nothing waits in here but for the next such look.
 */
final class Session {
    private static final System.Logger LOG = System.getLogger(Session.class.getName());
    private static final Set<Status.Code> FINAL =
            Set.of(INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED, UNIMPLEMENTED);
    private static final long TICK_MILLIS = 100;
    private static final long HELD_UP_MILLIS = 5_000;
    private static final long WELCOME_MILLIS = 10_000;
    private static final long SILENCE_MILLIS = 30_000;
    private static final long FIRST_BACKOFF_MILLIS = 200;
    private static final long MOST_BACKOFF_MILLIS = 30_000;
    private static final long LAST_WORDS_MILLIS = 5_000;
    private static final int MESSAGE_BYTES = 1_000_000;
    static final long NEVER = Long.MAX_VALUE / 2;

    final CompletableFuture<Void> connected = new CompletableFuture<>();
    final CompletableFuture<Void> ended = new CompletableFuture<>();
    final Worker.Builder worker;
    private final Map<TaskRef, Attempt> attempts = new LinkedHashMap<>();
    /** Those whose report is not answered yet, by their numbers. */
    private final Map<Long, Attempt> reported = new LinkedHashMap<>();
    /** What is to be said, in order. What is said later under the same key is said in place of it. */
    private final Map<Object, ConnectRequest> outbox = new LinkedHashMap<>();
    /** What was last heard of the session; it has no id if there is none to resume. */
    private Welcome welcome = Welcome.getDefaultInstance();

    private Link link;
    private long numbers;
    private int tries;
    private long connectAt;
    private long releaseAt = NEVER;
    private long tickedAt = now();

    Session(Worker.Builder worker) {
        this.worker = worker;
    }

    /** Milliseconds of a clock that nobody sets. */
    static long now() {
        return System.nanoTime() / 1_000_000;
    }

    static long millis(Duration duration) {
        return duration.getSeconds() * 1000 + duration.getNanos() / 1_000_000;
    }

    /** Works until all is done after {@link #drain}, or the service refuses for good. */
    void run() {
        try {
            work();
            connected.cancel(false);
            ended.complete(null);
        } catch (Throwable why) {
            connected.completeExceptionally(why);
            ended.completeExceptionally(why);
        }
    }

    private synchronized void work() throws InterruptedException {
        try {
            while (now() < releaseAt + LAST_WORDS_MILLIS && (releaseAt == NEVER || !attempts.isEmpty())) {
                tick(now());
                wait(TICK_MILLIS);
            }
            if (link != null) {
                // So that the service ends the session at once.
                link.call.sendMessage(ConnectRequest.newBuilder().setDrain(true).build());
                link.call.halfClose();
                for (long until = now() + LAST_WORDS_MILLIS; link.end == null && now() < until; ) {
                    wait(TICK_MILLIS);
                }
            }
        } finally {
            forget();
            leave();
        }
    }

    /** Asks for no more tasks; what is at work after a time is given back. */
    synchronized void drain(long millis) {
        releaseAt = Math.min(releaseAt, now() + millis);
        if (link != null) {
            link.pingAt = 0;
        }
    }

    /** Does all that is due. */
    private void tick(long now) {
        if (link != null) {
            watch(now);
        } else if (now >= connectAt) {
            link = new Link();
        }
        for (Attempt attempt : attempts.values()) {
            attempt.tick(now);
            if (now >= releaseAt) {
                attempt.release("the worker is leaving");
            }
        }
        flush();
        tickedAt = now;
    }

    /** Shows life and asks for it, and gives up a stream that has ended, is silent or is to be moved. */
    private void watch(long now) {
        if (now - tickedAt > HELD_UP_MILLIS) {
            // This process itself was held up: what came meanwhile is yet to be read.
            link.heardAt = now;
        }
        long silence = now - link.heardAt;
        if (link.end != null) {
            recover(link.end);
        } else if (silence > (link.isWelcome ? SILENCE_MILLIS : WELCOME_MILLIS)) {
            recover(StepwellException.unavailable("nothing was heard for " + silence + " ms"));
        } else if (now >= link.moveAt) {
            leave();
        } else if (link.isWelcome && now >= link.pingAt) {
            link.pingAt = now + millis(welcome.getHeartbeatInterval()) - 2 * TICK_MILLIS;
            ConnectRequest.Builder ping = ConnectRequest.newBuilder().setPing(now);
            outbox.put("ping", ping.setDrain(releaseAt != NEVER).build());
        }
    }

    /** Settles when to connect again, or throws what no attempt can help. */
    private void recover(StepwellException why) {
        leave();
        if (FINAL.contains(why.code())) {
            throw why;
        }
        if (why.reason().equals("SESSION_EXPIRED")) {
            forget();
        }
        long most = welcome.hasSessionTtl() ? millis(welcome.getSessionTtl()) / 4 : MOST_BACKOFF_MILLIS;
        long backoff = Math.min(most, FIRST_BACKOFF_MILLIS << Math.min(tries++, 16));
        long delay = why.retryMillis() + ThreadLocalRandom.current().nextLong(backoff + 1);
        connectAt = now() + delay;
        LOG.log(Level.INFO, "connecting again in {0} ms: {1}", delay, why);
    }

    private void leave() {
        if (link != null) {
            link.channel.shutdownNow();
            link = null;
        }
    }

    /** The session is over: what it held is somebody else's. */
    private void forget() {
        List.copyOf(attempts.values()).forEach(this::drop);
        outbox.clear();
        welcome = Welcome.getDefaultInstance();
        tries = 0;
    }

    private void drop(Attempt attempt) {
        attempts.remove(attempt.ref());
        reported.remove(attempt.number);
        outbox.remove(attempt);
        attempt.cancel();
    }

    /** Takes in a message: assigns first, since all else that it says may be about them. */
    private synchronized void take(Link from, ConnectResponse message) {
        if (from != link) {
            return;
        }
        link.heardAt = now();
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
            outbox.put(
                    "pong",
                    ConnectRequest.newBuilder().setPong(message.getPing()).build());
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
        for (Attempt attempt : List.copyOf(attempts.values())) {
            if (attempt.report == null && !held.contains(attempt.ref())) {
                drop(attempt);
            }
        }
        welcome = told;
        link.isWelcome = true;
        tries = 0;
        reported.values().forEach(this::say);
        // What waits for it runs elsewhere: it may ask this session for something.
        connected.completeAsync(() -> null);
        LOG.log(Level.INFO, "connected: session {0}, resumed: {1}", told.getSessionId(), told.getResumed());
    }

    private void assign(Task task) {
        outbox.putIfAbsent(
                task.getRef(),
                ConnectRequest.newBuilder().addAcks(task.getRef()).build());
        if (!attempts.containsKey(task.getRef())) {
            Attempt attempt = new Attempt(this, task, ++numbers);
            attempts.put(task.getRef(), attempt);
            attempt.thread.start();
        }
    }

    private Optional<Attempt> find(TaskRef ref) {
        return Optional.ofNullable(attempts.get(ref));
    }

    private void answered(ReportResult result) {
        Attempt attempt = reported.get(result.getCorrelation());
        if (attempt == null) {
            return;
        }
        switch (result.getRemedy()) {
            case REMEDY_REPEAT -> attempt.repeatAt = now() + millis(result.getRepeatDelay());
            case REMEDY_FAIL -> attempt.fail(StepwellException.of(result.getError()));
            default -> drop(attempt);
        }
    }

    /** Whether an attempt is still this worker's, and nothing is said of how it ended. */
    boolean awaits(Attempt attempt) {
        return attempt.report == null && attempts.get(attempt.ref()) == attempt;
    }

    void report(Attempt attempt) {
        reported.put(attempt.number, attempt);
        say(attempt);
        flush();
    }

    /** Says a report, or says it again. */
    void say(Attempt attempt) {
        attempt.repeatAt = NEVER;
        outbox.remove(attempt);
        outbox.put(
                attempt, ConnectRequest.newBuilder().addReports(attempt.report).build());
    }

    void say(TaskHeartbeat heartbeat) {
        outbox.put(
                heartbeat.getRef(),
                ConnectRequest.newBuilder().addHeartbeats(heartbeat).build());
    }

    /**
     * Writes what there is to say as long as the connection takes it; the rest gathers until it does again. The last item
     * of a message may go beyond the size that is aimed at, and stays below what is refused.
     */
    private synchronized void flush() {
        while (link != null && link.isWelcome && link.call.isReady() && !outbox.isEmpty()) {
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
                channel.newCall(WorkerServiceGrpc.getConnectMethod(), CallOptions.DEFAULT);
        long heardAt = now();
        long pingAt;
        long moveAt = NEVER;
        boolean isWelcome;
        volatile StepwellException end;

        Link() {
            Hello.Builder hello = worker.hello.clone().setSessionId(welcome.getSessionId());
            call.start(this, new Metadata());
            call.request(1);
            call.sendMessage(ConnectRequest.newBuilder()
                    .setHello(hello.addAllHeld(attempts.keySet()))
                    .build());
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
}
