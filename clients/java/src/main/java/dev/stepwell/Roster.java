package dev.stepwell;

import dev.stepwell.v1.ConnectResponse;
import dev.stepwell.v1.Report;
import dev.stepwell.v1.ReportResult;
import dev.stepwell.v1.Task;
import dev.stepwell.v1.TaskHeartbeat;
import dev.stepwell.v1.TaskRef;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/** The attempts that a session holds, and the threads that make them. Guarded by the session's monitor. */
final class Roster {
    /** The activities of a worker, by type, and how their values are written. */
    record Definitions(Map<String, Attempt.Definition> byType, Payloads payloads) {}

    private final Session session;
    private final Outbox outbox;
    private final Definitions definitions;
    private final Map<String, Attempt> attempts = new LinkedHashMap<>();
    private final ExecutorService performers = Executors.newCachedThreadPool(work -> thread(work, "stepwell-activity"));
    private final ScheduledExecutorService timer =
            Executors.newSingleThreadScheduledExecutor(work -> thread(work, "stepwell-timer"));

    Roster(Session session, Outbox outbox, Definitions definitions) {
        this.session = session;
        this.outbox = outbox;
        this.definitions = definitions;
    }

    private static Thread thread(Runnable work, String name) {
        Thread thread = new Thread(work, name);
        thread.setDaemon(true);
        return thread;
    }

    boolean isEmpty() {
        return attempts.isEmpty();
    }

    List<TaskRef> held() {
        return attempts.values().stream().map(Attempt::ref).toList();
    }

    /** Takes in a message: assigns first, since all else that it says may be about them. */
    void take(ConnectResponse message) {
        message.getAssignsList().forEach(this::assign);
        message.getCancelsList().forEach(word -> cancel(word.getRef()));
        message.getRevokesList().forEach(word -> revoke(word.getRef()));
        message.getResultsList().forEach(this::answered);
        message.getHeartbeatsList().stream()
                // Of a lost task the report is made all the same: its place is given back with the answer.
                .filter(beat -> beat.getCancelRequested() || beat.getLost())
                .forEach(beat -> cancel(beat.getRef()));
    }

    private void assign(Task task) {
        outbox.acknowledge(task.getRef());
        if (find(task.getRef()) != null) {
            return;
        }
        Attempt former = attempts.get(task.getRef().getTaskId());
        if (former != null) {
            former.lose();
        }
        Attempt.Definition definition = definitions.byType().get(task.getType());
        Attempt attempt = new Attempt(session, this, definitions.payloads(), task, definition);
        attempts.put(task.getRef().getTaskId(), attempt);
        if (definition == null) {
            attempt.release("activity " + task.getType() + " is not known here");
        } else {
            performers.execute(attempt);
        }
    }

    /** The attempt under just that grant; null if it is not held. */
    private Attempt find(TaskRef ref) {
        Attempt found = attempts.get(ref.getTaskId());
        return found != null && found.ref().equals(ref) ? found : null;
    }

    private void cancel(TaskRef ref) {
        Attempt found = find(ref);
        if (found != null) {
            found.cancel();
        }
    }

    private void revoke(TaskRef ref) {
        Attempt found = find(ref);
        if (found != null) {
            found.lose();
        }
    }

    private void answered(ReportResult result) {
        TaskRef ref = outbox.answered(result);
        Attempt found = ref == null ? null : find(ref);
        if (found != null) {
            found.answered(result);
        }
    }

    /** Drops what the resumed session does not hold any more, except what was reported and not answered. */
    void keep(List<TaskRef> still) {
        Set<TaskRef> kept = new HashSet<>(still);
        for (Attempt attempt : all()) {
            if (!kept.contains(attempt.ref()) && !outbox.isUnanswered(attempt.ref())) {
                attempt.lose();
            }
        }
    }

    /** Drops all: the session is over. */
    void lose() {
        all().forEach(Attempt::lose);
    }

    /** Gives back what is not reported yet. */
    void release(String reason) {
        all().forEach(attempt -> attempt.release(reason));
    }

    void close() {
        timer.shutdownNow();
        performers.shutdown();
    }

    private List<Attempt> all() {
        return new ArrayList<>(attempts.values());
    }

    // What attempts tell.

    void report(Report.Builder report) {
        outbox.report(report);
        session.flush();
    }

    void heartbeat(TaskHeartbeat heartbeat) {
        outbox.heartbeat(heartbeat);
        session.flush();
    }

    void remove(Attempt attempt) {
        attempts.remove(attempt.ref().getTaskId(), attempt);
        session.removed();
    }

    /** Does something after a while, within the session's monitor. */
    void later(long millis, Runnable action) {
        Runnable guarded = () -> {
            synchronized (session) {
                action.run();
            }
        };
        timer.schedule(guarded, millis, TimeUnit.MILLISECONDS);
    }
}
