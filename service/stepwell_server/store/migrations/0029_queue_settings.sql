-- What somebody has set for a task queue. A queue without settings has no row, and costs nothing.

CREATE TABLE queue_settings (
    namespace_id int NOT NULL,
    task_queue text NOT NULL,
    version bigint NOT NULL,            -- counts the changes, from 1
    update_time timestamptz NOT NULL,
    rate_per_second double precision,   -- null: no limit
    rate_burst int,
    spent_until timestamptz,            -- when the bucket of tokens is full again; null: it is full
    aging_seconds double precision,     -- in which a waiting task gains a step of priority; null: it gains none
    PRIMARY KEY (namespace_id, task_queue)
) WITH (fillfactor = 50);
