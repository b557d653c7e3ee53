-- The core: namespaces, runs, steps, history, signals, tasks, sessions, mail.
--
-- Small unpartitioned tables hold what is open and changes: runs, steps, scopes, signals, tasks, sessions, mail.
-- Partitioned by run_key, which rises with time, are tables that are only inserted into: closed_runs, closed_steps,
-- events. A row moves when it ends. The row in `runs` is the lock and the version of everything that is open of a run:
-- whoever changes any of it holds that row's lock. Hence no foreign keys, and no locks on the other tables.

CREATE TABLE namespaces (
    namespace_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    create_time timestamptz NOT NULL
);
INSERT INTO namespaces (name, create_time) VALUES ('main', now());

-- Replicas take blocks of 1,000 run keys at a time.
CREATE SEQUENCE run_key_blocks START 1;
-- Each committer of each replica takes a number when it starts: watch cursors count batches per committer.
CREATE SEQUENCE committer_numbers START 1;

-- Makes run ids unique in their namespace, open and closed alike.
CREATE TABLE run_ids (
    run_id uuid NOT NULL,
    namespace_id int NOT NULL,
    run_key bigint NOT NULL,
    request_hash bytea,                 -- of the request that started it, if it had a request_id
    PRIMARY KEY (run_id, namespace_id)
);

-- The latest run of each workflow id. Whether it is open is told by `runs`.
CREATE TABLE workflow_ids (
    workflow_id text NOT NULL,
    namespace_id int NOT NULL,
    run_key bigint NOT NULL,
    PRIMARY KEY (workflow_id, namespace_id)
);

-- Open runs.
CREATE TABLE runs (
    run_key bigint PRIMARY KEY,
    namespace_id int NOT NULL,
    run_id uuid NOT NULL,
    workflow_id text NOT NULL,          -- '' if none
    type text NOT NULL,
    task_queue text NOT NULL,
    priority smallint NOT NULL,         -- 0 to 9, higher first
    driven boolean NOT NULL,
    managed boolean NOT NULL,
    parent_key bigint,
    parent_ordinal int NOT NULL,
    correlation_id text NOT NULL,
    traceparent text NOT NULL,
    tracestate text NOT NULL,
    create_time timestamptz NOT NULL,
    deadline timestamptz,
    -- what changes:
    phase smallint NOT NULL,
    version bigint NOT NULL,
    last_event int NOT NULL,
    last_step int NOT NULL,             -- the greatest ordinal given
    last_signal int NOT NULL,
    open_steps int NOT NULL,
    order_count int NOT NULL,           -- calls recorded in the run's own scope, and their chained hash
    order_hash bytea NOT NULL,
    grants bigint NOT NULL,             -- fencing token: how often the run was granted
    session_id uuid,                    -- who holds it
    returns smallint NOT NULL,          -- grants that came back unacknowledged, in a row
    queued boolean NOT NULL,            -- a row in tasks stands for it
    dirty boolean NOT NULL,             -- something ended while it was held
    owner_id text NOT NULL,
    lease_expire_time timestamptz,      -- driven runs only
    pause_reason text,
    cancel_reason text,
    cancel_time timestamptz,
    build_id text NOT NULL,
    update_time timestamptz NOT NULL,
    suspend_time timestamptz,
    wake_time timestamptz,
    details bytea                       -- what is rarely set, as msgpack (model.runs.RunDetails)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX runs_wake_idx ON runs (wake_time) WHERE wake_time IS NOT NULL;
CREATE INDEX runs_session_idx ON runs (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX runs_namespace_idx ON runs (namespace_id, run_key);

-- Runs that have ended. Written once.
CREATE TABLE closed_runs (
    run_key bigint NOT NULL,
    namespace_id int NOT NULL,
    run_id uuid NOT NULL,
    workflow_id text NOT NULL,
    type text NOT NULL,
    task_queue text NOT NULL,
    priority smallint NOT NULL,
    driven boolean NOT NULL,
    managed boolean NOT NULL,
    parent_key bigint,
    parent_ordinal int NOT NULL,
    correlation_id text NOT NULL,
    traceparent text NOT NULL,
    tracestate text NOT NULL,
    create_time timestamptz NOT NULL,
    deadline timestamptz,
    phase smallint NOT NULL,
    version bigint NOT NULL,
    last_event int NOT NULL,
    last_step int NOT NULL,
    last_signal int NOT NULL,
    order_count int NOT NULL,
    order_hash bytea NOT NULL,
    grants bigint NOT NULL,
    cancel_reason text,
    cancel_time timestamptz,
    build_id text NOT NULL,
    end_time timestamptz NOT NULL,
    end_event int NOT NULL,             -- the event that holds the result or the failure
    details bytea,
    PRIMARY KEY (run_key)
) PARTITION BY RANGE (run_key);
CREATE INDEX closed_runs_namespace_idx ON closed_runs (namespace_id, run_key);

-- Open steps.
CREATE TABLE steps (
    run_key bigint NOT NULL,
    ordinal int NOT NULL,
    scope text NOT NULL,
    name text NOT NULL,
    occurrence int NOT NULL,
    key text NOT NULL,
    kind smallint NOT NULL,
    type text NOT NULL,                 -- of the activity or child
    task_queue text NOT NULL,
    priority smallint NOT NULL,
    wait_name text,                     -- the signal or topic waited for
    seq bigint NOT NULL,
    child_key bigint,
    create_time timestamptz NOT NULL,
    input_event int NOT NULL,           -- the event that holds the input; 0 if none
    -- what changes:
    state smallint NOT NULL,
    attempt int NOT NULL,
    grants bigint NOT NULL,
    session_id uuid,
    returns smallint NOT NULL,
    owner_id text NOT NULL,
    start_time timestamptz,
    wake_time timestamptz,              -- when it fires, tries again or must be looked at for a timeout
    cancel_requested boolean NOT NULL,
    details bytea,                      -- model.steps.StepDetails
    PRIMARY KEY (run_key, ordinal)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX steps_name_idx ON steps (run_key, scope, name, occurrence, key);
CREATE INDEX steps_wait_idx ON steps (run_key, wait_name) WHERE wait_name IS NOT NULL;
CREATE INDEX steps_wake_idx ON steps (wake_time) WHERE wake_time IS NOT NULL;
CREATE INDEX steps_session_idx ON steps (session_id) WHERE session_id IS NOT NULL;

-- What activities said in their latest heartbeat. Apart from steps, so that a beat rewrites a small row.
CREATE TABLE heartbeats (
    run_key bigint NOT NULL,
    ordinal int NOT NULL,
    beat_time timestamptz NOT NULL,
    details bytea,                      -- a Payload, as msgpack
    PRIMARY KEY (run_key, ordinal)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Steps that have ended. Written once; a rewind or retry takes rows out again.
CREATE TABLE closed_steps (
    run_key bigint NOT NULL,
    ordinal int NOT NULL,
    scope text NOT NULL,
    name text NOT NULL,
    occurrence int NOT NULL,
    key text NOT NULL,
    kind smallint NOT NULL,
    type text NOT NULL,
    task_queue text NOT NULL,
    priority smallint NOT NULL,
    wait_name text,
    seq bigint NOT NULL,
    child_key bigint,
    create_time timestamptz NOT NULL,
    input_event int NOT NULL,
    state smallint NOT NULL,
    attempt int NOT NULL,
    grants bigint NOT NULL,
    start_time timestamptz,
    end_time timestamptz NOT NULL,
    end_event int NOT NULL,             -- the event that holds the result; the order of ends
    timed_out boolean NOT NULL,
    details bytea,
    PRIMARY KEY (run_key, scope, name, occurrence, key)
) PARTITION BY RANGE (run_key);

-- History, and every payload of a run, each stored once.
CREATE TABLE events (
    run_key bigint NOT NULL,
    number int NOT NULL,
    type smallint NOT NULL,             -- model.events.EventType; 0 for a caller's own
    origin smallint NOT NULL,
    step_ordinal int NOT NULL,
    event_time timestamptz NOT NULL,
    payload_kind smallint NOT NULL,     -- 0 none, 1 JSON text, 2 bytes
    payload bytea,
    caller_type text,
    caller_seq bigint NOT NULL,
    attributes bytea,                   -- model.events.Attributes
    PRIMARY KEY (run_key, number)
) PARTITION BY RANGE (run_key);

-- Callers' own event numbers, unique in their run.
CREATE TABLE caller_seqs (
    run_key bigint NOT NULL,
    caller_seq bigint NOT NULL,
    number int NOT NULL,
    PRIMARY KEY (run_key, caller_seq)
);

-- How many calls were recorded in each branch, and their chained hash. The run's own scope stands in runs.
CREATE TABLE scopes (
    run_key bigint NOT NULL,
    scope text NOT NULL,
    order_count int NOT NULL,
    order_hash bytea NOT NULL,
    PRIMARY KEY (run_key, scope)
) WITH (fillfactor = 60);

-- Signals that nobody has taken yet, and the ids of those taken while their run is open.
CREATE TABLE signals (
    run_key bigint NOT NULL,
    ordinal int NOT NULL,               -- the order of arrival
    name text NOT NULL,
    event int NOT NULL,                 -- the event that holds the payload
    signal_id text,                     -- the caller's request_id
    consumed boolean NOT NULL,
    receive_time timestamptz NOT NULL,
    PRIMARY KEY (run_key, ordinal)
);
CREATE UNIQUE INDEX signals_id_idx ON signals (run_key, signal_id) WHERE signal_id IS NOT NULL;
CREATE INDEX signals_name_idx ON signals (run_key, name, ordinal) WHERE NOT consumed;

-- Work that waits for a worker, and nothing else. Claiming deletes the row.
CREATE TABLE tasks (
    run_key bigint NOT NULL,
    ordinal int NOT NULL,               -- of the activity's step; 0 for the run itself
    namespace_id int NOT NULL,
    task_queue text NOT NULL,
    kind smallint NOT NULL,             -- 1 run, 2 activity
    type text NOT NULL,
    rank smallint NOT NULL,             -- 9 - priority: lower goes first
    ready_time timestamptz NOT NULL,
    build_id text NOT NULL,
    PRIMARY KEY (run_key, ordinal)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX tasks_claim_idx ON tasks (namespace_id, task_queue, kind, type, rank, ready_time, run_key, ordinal);

-- Workers' sessions. One row a worker; a beat of a whole replica is one update.
CREATE TABLE sessions (
    session_id uuid PRIMARY KEY,
    namespace_id int NOT NULL,
    worker_id text NOT NULL,
    register_time timestamptz NOT NULL,
    hello bytea NOT NULL,               -- model.workers.Hello, as msgpack
    expire_time timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- What a change of one run means for another: applied as a command of that run, deleted by the batch that applies it.
CREATE TABLE mail (
    mail_id uuid PRIMARY KEY,
    run_key bigint NOT NULL,
    post_time timestamptz NOT NULL,
    body bytea NOT NULL                 -- model.mail.Mail, as msgpack
);
CREATE INDEX mail_time_idx ON mail (post_time);

-- Runs that wait on a topic.
CREATE TABLE watchers (
    run_key bigint NOT NULL,
    ordinal int NOT NULL,               -- the WAIT step; 0 for a driven run's own wait
    namespace_id int NOT NULL,
    topic text NOT NULL,
    step_name text NOT NULL,
    create_time timestamptz NOT NULL,
    deadline timestamptz,
    data bytea,                         -- a Payload, as msgpack
    PRIMARY KEY (run_key, ordinal)
);
CREATE INDEX watchers_topic_idx ON watchers (namespace_id, topic, create_time, run_key);

-- One row a batch: settles an unknown outcome (the id), and orders what watchers see (the position).
CREATE TABLE batches (
    batch_id uuid PRIMARY KEY,
    committer bigint NOT NULL,
    position bigint NOT NULL,
    commit_time timestamptz NOT NULL,
    ended bigint[] NOT NULL             -- run keys of the runs that ended in it
);
CREATE UNIQUE INDEX batches_position_idx ON batches (committer, position);

-- Leadership of outside engines, and the epoch of our own leader.
CREATE TABLE leaderships (
    name text PRIMARY KEY,
    holder text NOT NULL,
    epoch bigint NOT NULL,
    expire_time timestamptz NOT NULL
);

-- The first partitions; the leader makes further ones ahead of need.
CREATE TABLE closed_runs_p1 PARTITION OF closed_runs FOR VALUES FROM (0) TO (10000000);
CREATE TABLE closed_steps_p1 PARTITION OF closed_steps FOR VALUES FROM (0) TO (10000000);
CREATE TABLE events_p1 PARTITION OF events FOR VALUES FROM (0) TO (10000000);
CREATE TABLE closed_runs_rest PARTITION OF closed_runs DEFAULT;
CREATE TABLE closed_steps_rest PARTITION OF closed_steps DEFAULT;
CREATE TABLE events_rest PARTITION OF events DEFAULT;
