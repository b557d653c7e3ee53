package dev.stepwell;

import dev.stepwell.v1.Task;
import java.util.Optional;

/** What an activity's code knows of its attempt, and tells of it. */
public interface ActivityContext {
    /** The task as it was assigned: type, attempt (from 1), the run's or the job's id, deadline, trace context. */
    Task task();

    /**
     * Says that the attempt is alive, and how far it is. It waits for nothing and may be called as often as one likes: what
     * comes faster than is needed goes out later, the last one for all.
     *
     * @param details what the next attempt gets if this one fails; null leaves those of before. At most 2 MiB as JSON.
     * @throws IllegalArgumentException if the details can't be written as JSON
     * @throws ApplicationException if they are too large
     */
    void heartbeat(Object details);

    /** Reads what the attempt before told last; empty if it told nothing. */
    <T> Optional<T> heartbeatDetails(Class<T> type);

    /** Whether the attempt should stop: somebody asked it to, or its task is not this worker's any more. */
    boolean isCancelled();
}
