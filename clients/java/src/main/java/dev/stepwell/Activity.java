package dev.stepwell;

/**
 * What a worker does for a type of activity or job. It may be called more than once for the same task: an attempt that
 * was lost is made again.
 *
 * @param <I> what it is given
 * @param <O> what it comes to
 */
@FunctionalInterface
public interface Activity<I, O> {
    /**
     * Performs one attempt, in a thread of its own. When the attempt should stop, that thread is interrupted.
     *
     * @param input what it was given, or null
     * @return what it came to, or null
     * @throws Exception when the attempt has failed; {@link ApplicationException} says more than others. After a request
     *     to stop, an {@link InterruptedException} that is thrown on, also as a cause, says that it has stopped.
     */
    O perform(ActivityContext context, I input) throws Exception;
}
