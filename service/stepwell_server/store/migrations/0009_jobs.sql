-- stepwell: min-server 9
-- Jobs: activities without a run. Keys come from the same blocks as those of runs, so that a key is one thing's alone.
--
-- As with runs, the row in `jobs` is the lock of all that is open of a job, what has ended is only inserted, and a row
-- moves when its job ends. Inputs are written once, apart: an UPDATE does not rewrite them, and they stay where they are
-- when the job ends.
--
-- An older server would claim the task of a job and find no run for it, again and again.

-- Makes job ids unique in their namespace, open and closed alike.
CREATE TABLE job_ids (
    job_id uuid NOT NULL,
    namespace_id int NOT NULL,
    job_key bigint NOT NULL,
    request_hash bytea,                 -- of the request that started it, if it had a request_id
    PRIMARY KEY (job_id, namespace_id)
);

-- The latest job of each unique key. Whether it is open is told by `jobs`.
CREATE TABLE unique_jobs (
    unique_key text NOT NULL,
    namespace_id int NOT NULL,
    job_key bigint NOT NULL,
    PRIMARY KEY (unique_key, namespace_id)
);

-- Open jobs.
CREATE TABLE jobs (
    job_key bigint PRIMARY KEY,
    namespace_id int NOT NULL,
    job_id uuid NOT NULL,
    unique_key text NOT NULL,           -- '' if none
    type text NOT NULL,
    task_queue text NOT NULL,
    priority smallint NOT NULL,         -- 0 to 9, higher first
    correlation_id text NOT NULL,
    traceparent text NOT NULL,
    tracestate text NOT NULL,
    create_time timestamptz NOT NULL,
    retention_seconds double precision NOT NULL,
    -- what changes:
    schedule_time timestamptz NOT NULL, -- when it may begin, or was retried: its timeouts count from here
    state smallint NOT NULL,
    attempt int NOT NULL,
    grants bigint NOT NULL,             -- fencing token: how often it was granted
    session_id uuid,                    -- who holds it
    returns smallint NOT NULL,          -- grants that came back unacknowledged, in a row
    owner_id text NOT NULL,
    start_time timestamptz,
    wake_time timestamptz,              -- when it begins, tries again or must be looked at for a timeout
    cancel_reason text,
    cancel_time timestamptz,
    retries int NOT NULL,               -- how often it was retried after it had failed
    details bytea                       -- model.steps.StepDetails
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX jobs_wake_idx ON jobs (wake_time) WHERE wake_time IS NOT NULL;
CREATE INDEX jobs_session_idx ON jobs (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX jobs_namespace_idx ON jobs (namespace_id, job_key);

-- Jobs that have ended. Written once; a retry takes a row out again, and so does its retention.
CREATE TABLE closed_jobs (
    job_key bigint NOT NULL,
    namespace_id int NOT NULL,
    job_id uuid NOT NULL,
    unique_key text NOT NULL,
    type text NOT NULL,
    task_queue text NOT NULL,
    priority smallint NOT NULL,
    correlation_id text NOT NULL,
    traceparent text NOT NULL,
    tracestate text NOT NULL,
    create_time timestamptz NOT NULL,
    retention_seconds double precision NOT NULL,
    schedule_time timestamptz NOT NULL,
    state smallint NOT NULL,
    attempt int NOT NULL,
    grants bigint NOT NULL,
    start_time timestamptz,
    cancel_reason text,
    cancel_time timestamptz,
    retries int NOT NULL,
    details bytea,
    end_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,   -- when its retention is over
    failure bytea,                      -- a Failure, as msgpack
    result bytea,                       -- a Payload, as msgpack
    PRIMARY KEY (job_key)
) PARTITION BY RANGE (job_key);
CREATE INDEX closed_jobs_namespace_idx ON closed_jobs (namespace_id, job_key);
CREATE INDEX closed_jobs_expire_idx ON closed_jobs (expire_time);

-- What jobs were given. Written once; goes with its job's retention. A job without an input has no row.
CREATE TABLE job_inputs (
    job_key bigint NOT NULL,
    input bytea NOT NULL,               -- a Payload, as msgpack
    PRIMARY KEY (job_key)
) PARTITION BY RANGE (job_key);

CREATE TABLE closed_jobs_p1 PARTITION OF closed_jobs FOR VALUES FROM (0) TO (10000000);
CREATE TABLE job_inputs_p1 PARTITION OF job_inputs FOR VALUES FROM (0) TO (10000000);
CREATE TABLE closed_jobs_rest PARTITION OF closed_jobs DEFAULT;
CREATE TABLE job_inputs_rest PARTITION OF job_inputs DEFAULT;
