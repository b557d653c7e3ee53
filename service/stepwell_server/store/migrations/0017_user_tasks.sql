-- Tasks for people. Each is a step of a run, and stays when that has ended; input and output are in the run's history.

CREATE TABLE user_tasks (
    run_key bigint NOT NULL,
    ordinal int NOT NULL,               -- its step's
    namespace_id int NOT NULL,
    task_id uuid NOT NULL,
    run_id uuid NOT NULL,
    workflow_id text NOT NULL,
    step_name text NOT NULL,
    title text NOT NULL,
    description text NOT NULL,
    schema_type text NOT NULL,
    assigned_role_id text NOT NULL,
    assigned_user_id text NOT NULL,
    assigned_group_id text NOT NULL,
    priority smallint NOT NULL,         -- model.user_tasks.TaskPriority
    due_time timestamptz NOT NULL,      -- the end of the year 9999 stands for none
    signal_name text NOT NULL,
    status smallint NOT NULL,           -- model.user_tasks.TaskStatus
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    claimed_by text NOT NULL,
    claim_time timestamptz,
    completed_by text NOT NULL,
    complete_time timestamptz,
    version bigint NOT NULL,
    input_event int NOT NULL,
    output_event int NOT NULL,
    PRIMARY KEY (run_key, ordinal)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX user_tasks_task_id_key ON user_tasks (task_id, namespace_id);
CREATE INDEX user_tasks_time_idx ON user_tasks (namespace_id, create_time, task_id);
CREATE INDEX user_tasks_status_idx ON user_tasks (namespace_id, status, create_time, task_id);

-- Inboxes: what is pending, in the order in which people see it.
CREATE INDEX user_tasks_role_idx
    ON user_tasks (namespace_id, assigned_role_id, (-priority), due_time, create_time, task_id)
    WHERE status = 1 AND assigned_role_id <> '';
CREATE INDEX user_tasks_user_idx
    ON user_tasks (namespace_id, assigned_user_id, (-priority), due_time, create_time, task_id)
    WHERE status = 1 AND assigned_user_id <> '';
CREATE INDEX user_tasks_group_idx
    ON user_tasks (namespace_id, assigned_group_id, (-priority), due_time, create_time, task_id)
    WHERE status = 1 AND assigned_group_id <> '';
