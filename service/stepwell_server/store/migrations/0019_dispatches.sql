-- What outside engines keep beside the progress of their runs: dispatches, idempotency keys, where runs come from.

-- Steps that an engine has handed to whatever carries its work. There need be no run of that id.
CREATE TABLE dispatches (
    namespace_id int NOT NULL,
    run_id uuid NOT NULL,
    step_name text NOT NULL,
    dispatch_time timestamptz NOT NULL,
    job_id text NOT NULL,               -- what the carrier calls it, or empty
    claim_time timestamptz,             -- when the step was claimed; none: it may be lost
    PRIMARY KEY (run_id, namespace_id, step_name)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX dispatches_unclaimed_idx
    ON dispatches (namespace_id, dispatch_time, run_id, step_name) WHERE claim_time IS NULL;

-- Keys under which a repeated trigger finds the run that the first one set off. There need be no such run yet.
CREATE TABLE idempotency_keys (
    namespace_id int NOT NULL,
    type text NOT NULL,
    trigger_key text NOT NULL,          -- folded, as the key is
    idempotency_key text NOT NULL,
    run_id uuid NOT NULL,
    register_time timestamptz NOT NULL,
    PRIMARY KEY (idempotency_key, namespace_id, type, trigger_key)
);
CREATE INDEX idempotency_keys_run_idx ON idempotency_keys (run_id, namespace_id);

-- What set a driven run off; only of runs of which that was said.
CREATE TABLE run_origins (
    run_key bigint PRIMARY KEY,
    namespace_id int NOT NULL,
    title text NOT NULL,
    trigger_key text NOT NULL,
    idempotency_key text NOT NULL,      -- as it was given
    source_run_id uuid                  -- the run that it is a re-run of
);
CREATE INDEX run_origins_source_idx
    ON run_origins (source_run_id, namespace_id, run_key) WHERE source_run_id IS NOT NULL;
