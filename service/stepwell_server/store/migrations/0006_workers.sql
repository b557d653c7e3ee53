-- Workers of outside engines, which hold no session of ours. One that is condemned is being removed: what it has is
-- released first, and no heartbeat revives it.

CREATE TABLE workers (
    worker_id text NOT NULL,
    namespace_id int NOT NULL,
    identity text NOT NULL,
    task_queue text NOT NULL,
    workflow_types text[] NOT NULL,
    activity_types text[] NOT NULL,
    max_concurrent_workflows int NOT NULL,
    max_concurrent_activities int NOT NULL,
    active_tasks int NOT NULL,
    register_time timestamptz NOT NULL,
    heartbeat_time timestamptz NOT NULL,
    condemned boolean NOT NULL,
    PRIMARY KEY (worker_id, namespace_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
