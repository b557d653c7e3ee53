-- Queries and updates that wait for a run held by a worker of another replica, or by nobody; and what runs publish.

-- Rows live as long as somebody waits. Whose replica has the run answers; updates are answered by what is recorded.
CREATE TABLE run_calls (
    call_id uuid PRIMARY KEY,
    run_key bigint NOT NULL,
    kind smallint NOT NULL,             -- 1 query, 2 update
    name text NOT NULL,
    update_id text NOT NULL,            -- '' for a query
    input bytea,                        -- a Payload, as msgpack
    expire_time timestamptz NOT NULL,   -- nobody waits after it
    answer bytea                        -- model.run_calls.CallAnswer, as msgpack
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX run_calls_run_idx ON run_calls (run_key);
CREATE INDEX run_calls_expire_idx ON run_calls (expire_time);

-- The latest value of each name that a run's code has published. Kept as long as the run.
CREATE TABLE published (
    run_key bigint NOT NULL,
    name text NOT NULL,
    payload bytea,                      -- a Payload, as msgpack
    publish_time timestamptz NOT NULL,
    PRIMARY KEY (run_key, name)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
