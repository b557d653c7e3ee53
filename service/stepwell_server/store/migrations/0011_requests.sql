-- What calls with a request id were answered, so that a repeat hears the same. Written with the change, kept for a day.

CREATE TABLE requests (
    request_id text NOT NULL,
    namespace_id int NOT NULL,          -- 0 where the call named all of them, or none
    method text NOT NULL,
    body_hash bytea NOT NULL,           -- of all else that the request said
    answer bytea NOT NULL,              -- as msgpack
    request_time timestamptz NOT NULL,
    PRIMARY KEY (request_id, namespace_id, method)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX requests_time_idx ON requests (request_time);
