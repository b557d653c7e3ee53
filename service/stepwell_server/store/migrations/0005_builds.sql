-- stepwell: no-transaction
-- Claims by build: a worker never looks at tasks of runs that are pinned to a build that it does not take.

CREATE INDEX CONCURRENTLY IF NOT EXISTS tasks_build_idx
    ON tasks (namespace_id, task_queue, kind, type, build_id, rank, ready_time, run_key, ordinal);
DROP INDEX CONCURRENTLY IF EXISTS tasks_claim_idx;
-- Activities of driven runs that their engines' workers are at: a look at a queue counts them.
CREATE INDEX CONCURRENTLY IF NOT EXISTS steps_driven_idx
    ON steps (task_queue, run_key) WHERE kind = 2 AND session_id IS NULL AND owner_id <> '';
