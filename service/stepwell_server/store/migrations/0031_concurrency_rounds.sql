-- stepwell: no-transaction
-- stepwell: was 77a1fc09618756a0862cf138ff8fa540111fc7c0f80dd7f5d3440c6227fd1bfb
-- Concurrency limits whose keys go in turn: which key had the last slot, and the waiting runs by key.

CREATE TABLE IF NOT EXISTS concurrency_rounds (
    namespace_id int NOT NULL,
    name text NOT NULL,
    last_key text NOT NULL,
    PRIMARY KEY (namespace_id, name)
);
CREATE INDEX CONCURRENTLY IF NOT EXISTS concurrency_slots_key_idx
    ON concurrency_slots (namespace_id, name, key, arrive_time, run_key)
    WHERE admit_time IS NULL AND line = '';
