-- stepwell: no-transaction
-- The keys of which something waits, one after the other, and what waits of each. Tasks without a key are not in it.

CREATE INDEX CONCURRENTLY IF NOT EXISTS tasks_fairness_idx
    ON tasks (
        namespace_id, task_queue, kind, type, build_id, fairness_key, rank, ready_time, run_key, ordinal
    ) WHERE fairness_key IS NOT NULL;
