-- Concurrency limits whose keys go in turn: which key had the last slot, and the waiting runs by key.

CREATE TABLE concurrency_rounds (
    namespace_id int NOT NULL,
    name text NOT NULL,
    last_key text NOT NULL,
    PRIMARY KEY (namespace_id, name)
);
CREATE INDEX concurrency_slots_key_idx ON concurrency_slots (namespace_id, name, key, arrive_time, run_key)
    WHERE admit_time IS NULL AND line = '';
