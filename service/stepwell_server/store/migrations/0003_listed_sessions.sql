-- What workers are listed by: what a session's hello says, in columns of its own.

ALTER TABLE sessions
    ADD COLUMN task_queues text[] NOT NULL DEFAULT '{}',
    ADD COLUMN workflow_types text[] NOT NULL DEFAULT '{}',
    ADD COLUMN activity_types text[] NOT NULL DEFAULT '{}',
    ADD COLUMN build_id text NOT NULL DEFAULT '',
    ADD COLUMN identity text NOT NULL DEFAULT '';
