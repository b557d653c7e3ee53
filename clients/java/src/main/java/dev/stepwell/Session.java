package dev.stepwell;

import com.google.protobuf.Duration;
import dev.stepwell.v1.ConnectRequest;
import dev.stepwell.v1.ConnectResponse;
import dev.stepwell.v1.Hello;
import dev.stepwell.v1.Welcome;
import io.grpc.ManagedChannel;
import java.lang.System.Logger.Level;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/**
 * A worker's presence: one stream after another, each resuming what the one before held. A stream that broke is followed
 * by another after a while; one that is to be moved works on until the new one is welcome.
 *
 * <p>The session's monitor guards it and all that belongs to it: streams, outbox, roster, attempts. Within it nothing
 * waits but {@link #run}, which gives it away meanwhile.
 */
final class Session {
    private static final System.Logger LOG = System.getLogger(Session.class.getName());
    private static final long WELCOME_MILLIS = 10_000;
    private static final long PING_MILLIS = 20_000;
    private static final long SILENCE_MILLIS = 30_000;
    private static final long TICK_MILLIS = 1_000;
    private static final long HELD_UP_MILLIS = 5_000;
    private static final long FIRST_BACKOFF_MILLIS = 200;
    private static final long MOST_BACKOFF_MILLIS = 30_000;
    private static final long LAST_ANSWERS_MILLIS = 5_000;
    private static final long LAST_WORDS_MILLIS = 2_000;
    private static final long NEVER = Long.MAX_VALUE;

    private final Supplier<? extends ManagedChannel> connections;
    private final Hello hello;
    private final CompletableFuture<Void> connected;
    private final Outbox outbox = new Outbox();
    private final Roster roster;

    private WorkerStream current;
    private String id = "";
    private long beatMillis;
    private long mostBackoff = MOST_BACKOFF_MILLIS;
    private long moveAt = NEVER;
    private long releaseAt = NEVER;
    private boolean isDraining;
    private long pings;
    private int tries;

    Session(
            Supplier<? extends ManagedChannel> connections,
            Hello hello,
            Roster.Definitions definitions,
            CompletableFuture<Void> connected) {
        this.connections = connections;
        this.hello = hello;
        this.connected = connected;
        this.roster = new Roster(this, outbox, definitions);
    }

    /** Milliseconds of a clock that nobody sets. */
    static long now() {
        return TimeUnit.NANOSECONDS.toMillis(System.nanoTime());
    }

    static long jitter(long most) {
        return most <= 0 ? 0 : ThreadLocalRandom.current().nextLong(most);
    }

    static long millis(Duration duration) {
        return duration.getSeconds() * 1000 + duration.getNanos() / 1_000_000;
    }

    /**
     * Stays connected until all work is done after {@link #drain}.
     *
     * @throws StepwellException when the service refuses for good
     */
    void run() throws InterruptedException {
        try {
            while (!isOver()) {
                try {
                    connect();
                    follow();
                } catch (StepwellException failed) {
                    recover(failed);
                }
            }
            sayGoodbye();
        } finally {
            synchronized (this) {
                leave();
                forget();
                roster.close();
            }
        }
    }

    /** Asks for no more tasks; what is at work after a time is given back. */
    synchronized void drain(long millis) {
        if (!isDraining) {
            isDraining = true;
            releaseAt = now() + millis;
            outbox.drain();
            flush();
            notifyAll();
        }
    }

    private synchronized boolean isOver() {
        return isDraining && (roster.isEmpty() || now() > releaseAt + LAST_ANSWERS_MILLIS);
    }

    /** Opens a stream if there is none, or if it is to be moved, and waits until it is welcome. */
    private void connect() throws InterruptedException {
        synchronized (this) {
            if (current != null && now() < moveAt) {
                return;
            }
        }
        WorkerStream fresh = new WorkerStream(this, connections.get());
        synchronized (this) {
            Hello.Builder greeting = hello.toBuilder().setSessionId(id);
            if (!id.isEmpty()) {
                greeting.addAllHeld(roster.held());
            }
            fresh.open(ConnectRequest.newBuilder().setHello(greeting).build());
            long until = now() + WELCOME_MILLIS;
            while (current != fresh && fresh.end == null && now() < until) {
                waitUntil(until);
            }
            if (current != fresh) {
                StepwellException why = fresh.end;
                fresh.close();
                throw why != null ? why : StepwellException.unavailable("the service did not say welcome in time");
            }
        }
    }

    private void waitUntil(long time) throws InterruptedException {
        wait(Math.max(1, time - now()));
    }

    /** Follows the stream until it is to be moved, or all is over; throws why it ended. */
    private synchronized void follow() throws InterruptedException {
        long tick = Math.min(TICK_MILLIS, beatMillis / 4);
        for (long before = now(); !isOver() && current.end == null && now() < moveAt; before = now()) {
            waitUntil(before + tick);
            if (now() - before > tick + HELD_UP_MILLIS) {
                // This process itself was held up: what came meanwhile is yet to be read.
                current.heardAt = now();
            }
            watch(tick);
        }
        if (current.end != null) {
            StepwellException why = current.end;
            leave();
            throw why;
        }
    }

    /** Shows life, asks for it, and gives a silent stream up. */
    private void watch(long tick) {
        long silence = now() - current.heardAt;
        if (silence > SILENCE_MILLIS) {
            current.end(StepwellException.unavailable("nothing was heard for " + silence + " ms"));
        } else if (silence > PING_MILLIS || now() - current.saidAt >= beatMillis - tick) {
            outbox.ping(++pings);
            flush();
        }
        if (now() >= releaseAt) {
            roster.release("the worker is leaving");
            flush();
        }
    }

    /** Waits before the next attempt to connect, or throws what no attempt can help. */
    private synchronized void recover(StepwellException failed) throws InterruptedException {
        if (failed.reason().equals("SESSION_EXPIRED") && !id.isEmpty()) {
            LOG.log(Level.WARNING, "the session is over: what it held is dropped");
            leave();
            forget();
            return;
        }
        if (isFinal(failed)) {
            throw failed;
        }
        long advice = failed.retryDelay().map(java.time.Duration::toMillis).orElse(0L);
        long backoff = Math.min(mostBackoff, FIRST_BACKOFF_MILLIS << Math.min(tries++, 16));
        long until = now() + advice + jitter(backoff);
        LOG.log(Level.INFO, "connecting again in {0} ms: {1}", until - now(), failed);
        if (current != null) {
            moveAt = until;
            return;
        }
        while (!isOver() && now() < until) {
            waitUntil(until);
        }
    }

    private static boolean isFinal(StepwellException failed) {
        return switch (failed.code()) {
            case INVALID_ARGUMENT, PERMISSION_DENIED, UNAUTHENTICATED, UNIMPLEMENTED -> true;
            default -> failed.reason().equals("NAMESPACE_NOT_FOUND");
        };
    }

    /** Half-closes, so that the service ends the session at once. */
    private synchronized void sayGoodbye() throws InterruptedException {
        if (current != null && current.end == null) {
            current.halfClose();
            long until = now() + LAST_WORDS_MILLIS;
            while (current.end == null && now() < until) {
                waitUntil(until);
            }
        }
    }

    private void leave() {
        if (current != null) {
            current.close();
            current = null;
        }
    }

    private void forget() {
        id = "";
        mostBackoff = MOST_BACKOFF_MILLIS;
        outbox.clear();
        roster.lose();
    }

    // What streams and attempts tell.

    synchronized void received(WorkerStream stream, ConnectResponse message) {
        if (stream.end != null) {
            return;
        }
        if (message.hasWelcome()) {
            adopt(stream, message.getWelcome());
        }
        if (stream == current) {
            stream.heardAt = now();
            roster.take(message);
            if (message.getPing() != 0) {
                outbox.pong(message.getPing());
            }
            if (message.hasRotate()) {
                moveAt = Math.min(
                        moveAt, now() + jitter(millis(message.getRotate().getWithin())));
            }
            flush();
        }
        notifyAll();
    }

    private void adopt(WorkerStream stream, Welcome welcome) {
        if (welcome.getResumed()) {
            roster.keep(welcome.getHeldList());
        } else {
            forget();
        }
        leave();
        current = stream;
        id = welcome.getSessionId();
        beatMillis = Math.max(1, millis(welcome.getHeartbeatInterval()));
        mostBackoff = millis(welcome.getSessionTtl()) / 4;
        moveAt = NEVER;
        tries = 0;
        outbox.resume(welcome.getMaxItems());
        if (isDraining) {
            outbox.drain();
        }
        LOG.log(Level.INFO, "connected: session {0}, resumed: {1}", id, welcome.getResumed());
        // What waits for it runs elsewhere: it may ask this session for something.
        connected.completeAsync(() -> null);
    }

    synchronized void ended(WorkerStream stream, StepwellException why) {
        stream.end(why);
        notifyAll();
    }

    /** Writes what there is to say. */
    synchronized void flush() {
        if (current != null) {
            current.write(outbox);
        }
    }

    /** Tells whoever waits that the last task may have gone. */
    synchronized void removed() {
        notifyAll();
    }
}
