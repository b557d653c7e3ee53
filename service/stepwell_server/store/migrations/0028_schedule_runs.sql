-- The runs of schedules that were open when somebody last looked, so that overlap policies know all of them.

CREATE TABLE schedule_runs (
    schedule_id uuid NOT NULL,
    workflow_id text NOT NULL,          -- in the schedule's namespace
    note_time timestamptz NOT NULL,     -- the oldest go when there are too many
    PRIMARY KEY (schedule_id, workflow_id)
);
INSERT INTO schedule_runs
SELECT schedule_id, last_workflow_id, update_time FROM schedules WHERE last_workflow_id <> '';
