-- Schedules, and the firings of theirs that wait.

CREATE TABLE schedules (
    schedule_id uuid PRIMARY KEY,
    namespace_id int NOT NULL,
    name text NOT NULL,
    cron text NOT NULL,
    time_zone text NOT NULL,
    jitter_seconds double precision NOT NULL,
    start_time timestamptz,
    end_time timestamptz,
    overlap_policy smallint NOT NULL,
    catchup_seconds double precision NOT NULL,
    run bytea NOT NULL,                 -- what it starts, as msgpack (engine.starts.NewRun)
    pause_reason text,                  -- null: not paused
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    -- what a firing changes:
    version bigint NOT NULL,
    next_time timestamptz,              -- jitter included; null while paused and after the last
    next_nominal timestamptz,           -- the time that it is for
    waiting int NOT NULL,               -- rows in schedule_firings
    last_time timestamptz,
    last_workflow_id text NOT NULL,
    last_run_id uuid,
    fired bigint NOT NULL,
    skipped bigint NOT NULL,
    missed bigint NOT NULL,
    last_error text NOT NULL,
    UNIQUE (namespace_id, name)
) WITH (fillfactor = 70);
CREATE INDEX schedules_next_idx ON schedules (next_time) WHERE next_time IS NOT NULL;
CREATE INDEX schedules_waiting_idx ON schedules (schedule_id) WHERE waiting > 0;

CREATE TABLE schedule_firings (
    schedule_id uuid NOT NULL,
    nominal_time timestamptz NOT NULL,
    overlap_policy smallint NOT NULL,
    PRIMARY KEY (schedule_id, nominal_time)
);
