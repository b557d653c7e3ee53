-- Concurrency limits: open runs that wait for a slot of their key, or have one.

CREATE TABLE concurrency_slots (
    run_key bigint PRIMARY KEY,
    namespace_id int NOT NULL,
    name text NOT NULL,
    line text NOT NULL,                 -- those of one line share slots: the key
    key text NOT NULL,
    maximum_runs int NOT NULL,
    strategy smallint NOT NULL,
    arrive_time timestamptz NOT NULL,
    admit_time timestamptz,             -- since when it has a slot; none: it waits
    gives_way boolean NOT NULL          -- it was asked to cancel for another's sake
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX concurrency_slots_waiting_idx ON concurrency_slots (namespace_id, name, line, arrive_time, run_key)
    WHERE admit_time IS NULL;
CREATE INDEX concurrency_slots_held_idx ON concurrency_slots (namespace_id, name, line, arrive_time, run_key)
    WHERE admit_time IS NOT NULL;
