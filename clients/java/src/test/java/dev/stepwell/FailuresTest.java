package dev.stepwell;

import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

class FailuresTest {
    /** Whether one of them was a request to stop is looked for once. */
    @Test
    @Timeout(10)
    void circleOfCausesIsAFailure() {
        Exception one = new Exception("one");
        one.initCause(new Exception("other", one));
        assertTrue(Failures.of(one, true).hasFail());
    }
}
