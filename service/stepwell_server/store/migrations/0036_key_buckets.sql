-- Rate limits of each key of a queue where keys take turns.

ALTER TABLE queue_settings ADD COLUMN key_rate_per_second double precision;     -- null: no limit
ALTER TABLE queue_settings ADD COLUMN key_rate_burst int;

-- Guarded by the lock of the queue's row in queue_settings. A key whose bucket is full needs no row.
CREATE TABLE key_buckets (
    namespace_id int NOT NULL,
    task_queue text NOT NULL,
    fairness_key text COLLATE "C" NOT NULL,
    spent_until timestamptz NOT NULL,           -- when the bucket of tokens is full again
    fill_seconds double precision NOT NULL,     -- in which an empty one fills, by the limit that it was written under
    PRIMARY KEY (namespace_id, task_queue, fairness_key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
