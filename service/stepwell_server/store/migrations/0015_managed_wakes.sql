-- stepwell: no-transaction
-- stepwell: was 17106da56c5ffa2aa36b9553fd3c617256bececde51e654a845c0879b18bddc1
-- What the service wakes by itself, apart from what outside engines ask for: however much of theirs is due, the leader's
-- looks never pass it.

-- Whether the service moves the step when its time has come: as its run has it.
ALTER TABLE steps ADD COLUMN IF NOT EXISTS managed boolean NOT NULL DEFAULT true;
DO $$
DECLARE
    last_key bigint := -1;
BEGIN
    LOOP
        WITH slice AS (
            SELECT r.run_key, r.managed FROM runs AS r WHERE r.run_key > last_key ORDER BY r.run_key LIMIT 1000
        ), told AS (
            UPDATE steps AS s SET managed = false FROM slice AS x
            WHERE s.run_key = x.run_key AND NOT x.managed AND s.managed
        )
        SELECT max(y.run_key) INTO last_key FROM slice AS y;
        EXIT WHEN last_key IS NULL;
        COMMIT;
    END LOOP;
END
$$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS steps_managed_wake_idx ON steps (wake_time) WHERE wake_time IS NOT NULL AND managed;
CREATE INDEX CONCURRENTLY IF NOT EXISTS steps_asked_wake_idx
    ON steps (wake_time, run_key, ordinal) WHERE wake_time IS NOT NULL AND NOT managed;
CREATE INDEX CONCURRENTLY IF NOT EXISTS runs_managed_wake_idx ON runs (wake_time) WHERE wake_time IS NOT NULL AND managed;
CREATE INDEX CONCURRENTLY IF NOT EXISTS runs_driven_wake_idx
    ON runs (namespace_id, wake_time, run_key) WHERE wake_time IS NOT NULL AND driven;
DROP INDEX CONCURRENTLY IF EXISTS steps_wake_idx;
DROP INDEX CONCURRENTLY IF EXISTS runs_wake_idx;
