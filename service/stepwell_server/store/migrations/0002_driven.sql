-- Driven runs: the task of a run whose engine has its workers claim it here, apart from the queues of our own workers.

CREATE TABLE run_tasks (
    run_key bigint PRIMARY KEY,
    namespace_id int NOT NULL,
    task_queue text NOT NULL,
    is_ready boolean NOT NULL,          -- somebody has something to do for the run
    ready_time timestamptz NOT NULL,    -- since when; the oldest goes first
    owner_id text,                      -- the worker that has the task
    claim_time timestamptz              -- since when
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX run_tasks_claim_idx ON run_tasks (namespace_id, task_queue, ready_time, run_key)
    WHERE is_ready AND owner_id IS NULL;
CREATE INDEX run_tasks_owner_idx ON run_tasks (namespace_id, claim_time) WHERE owner_id IS NOT NULL;
