-- stepwell: no-transaction
-- What the service wakes by itself, apart from what outside engines ask for: however much of theirs is due, the leader's
-- looks never pass it.

-- Whether the service moves the step when its time has come: as its run has it.
ALTER TABLE steps ADD COLUMN IF NOT EXISTS managed boolean NOT NULL DEFAULT true;
UPDATE steps SET managed = false FROM runs AS r WHERE r.run_key = steps.run_key AND NOT r.managed AND steps.managed;
CREATE INDEX CONCURRENTLY IF NOT EXISTS steps_managed_wake_idx ON steps (wake_time) WHERE wake_time IS NOT NULL AND managed;
CREATE INDEX CONCURRENTLY IF NOT EXISTS steps_asked_wake_idx
    ON steps (wake_time, run_key, ordinal) WHERE wake_time IS NOT NULL AND NOT managed;
CREATE INDEX CONCURRENTLY IF NOT EXISTS runs_managed_wake_idx ON runs (wake_time) WHERE wake_time IS NOT NULL AND managed;
CREATE INDEX CONCURRENTLY IF NOT EXISTS runs_driven_wake_idx
    ON runs (namespace_id, wake_time, run_key) WHERE wake_time IS NOT NULL AND driven;
DROP INDEX CONCURRENTLY IF EXISTS steps_wake_idx;
DROP INDEX CONCURRENTLY IF EXISTS runs_wake_idx;
