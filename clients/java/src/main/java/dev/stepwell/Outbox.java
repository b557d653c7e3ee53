package dev.stepwell;

import com.google.protobuf.MessageLite;
import dev.stepwell.v1.ConnectRequest;
import dev.stepwell.v1.Report;
import dev.stepwell.v1.ReportResult;
import dev.stepwell.v1.TaskHeartbeat;
import dev.stepwell.v1.TaskRef;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.Consumer;

/**
 * What a session has to say, and its reports that are not answered yet: they go out again after a resume. Guarded by the
 * session's monitor.
 */
final class Outbox {
    private static final int MESSAGE_BYTES = 1_000_000;

    private final Map<TaskRef, TaskHeartbeat> heartbeats = new LinkedHashMap<>();
    private final Map<Long, Report> reports = new TreeMap<>();
    private final Map<Long, Report> unanswered = new TreeMap<>();
    private final Set<TaskRef> acks = new LinkedHashSet<>();
    private long correlation;
    private long ping;
    private long pong;
    private boolean isDraining;
    private int maxItems = 256;

    void acknowledge(TaskRef ref) {
        acks.add(ref);
    }

    void report(Report.Builder outcome) {
        Report report = outcome.setCorrelation(++correlation).build();
        unanswered.put(correlation, report);
        reports.put(correlation, report);
        acks.remove(report.getRef());
    }

    /** Only the last one of an activity counts. */
    void heartbeat(TaskHeartbeat heartbeat) {
        heartbeats.put(heartbeat.getRef(), heartbeat);
    }

    void ping(long number) {
        ping = number;
    }

    void pong(long number) {
        pong = number;
    }

    void drain() {
        isDraining = true;
    }

    /** Forgets the report that was answered, and gives its task; null if it is not known. */
    TaskRef answered(ReportResult result) {
        Report report = unanswered.remove(result.getCorrelation());
        return report == null ? null : report.getRef();
    }

    boolean isUnanswered(TaskRef ref) {
        return unanswered.values().stream().anyMatch(report -> report.getRef().equals(ref));
    }

    /** Another stream goes on with the session. */
    void resume(int maxItems) {
        this.maxItems = maxItems > 0 ? maxItems : this.maxItems;
        reports.putAll(unanswered);
        acks.clear();
        ping = 0;
        pong = 0;
    }

    /** The session is over: nobody would take what it had to say. */
    void clear() {
        heartbeats.clear();
        reports.clear();
        unanswered.clear();
        acks.clear();
    }

    /**
     * Takes the next message; null if there is nothing to say. Heartbeats go first, so that none comes after its task's
     * end. The last item may go beyond the size that is aimed at, and stays below what is refused.
     */
    ConnectRequest take() {
        ConnectRequest.Builder message =
                ConnectRequest.newBuilder().setPing(ping).setPong(pong).setDrain(isDraining);
        ping = 0;
        pong = 0;
        isDraining = false;
        int room = move(heartbeats.values(), MESSAGE_BYTES, message::addHeartbeats);
        room = move(reports.values(), room, message::addReports);
        move(acks, room, message::addAcks);
        ConnectRequest taken = message.build();
        return taken.equals(ConnectRequest.getDefaultInstance()) ? null : taken;
    }

    private <M extends MessageLite> int move(Iterable<M> from, int room, Consumer<M> to) {
        Iterator<M> items = from.iterator();
        int left = room;
        for (int count = 0; count < maxItems && left > 0 && items.hasNext(); count++) {
            M item = items.next();
            items.remove();
            to.accept(item);
            left -= item.getSerializedSize();
        }
        return left;
    }
}
