-- How often a name was given: a run that is opened again takes its name without a change of the key that stands there.

ALTER TABLE workflow_ids ADD COLUMN turn bigint NOT NULL DEFAULT 0;
