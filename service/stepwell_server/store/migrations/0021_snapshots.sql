-- What outside engines keep of runs' states. They go with their run.

CREATE TABLE snapshots (
    run_key bigint NOT NULL,
    event_seq int NOT NULL,             -- its engine's own number
    state bytea,                        -- a Payload, as msgpack
    create_time timestamptz NOT NULL,
    PRIMARY KEY (run_key, event_seq)
);
