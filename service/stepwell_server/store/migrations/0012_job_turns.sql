-- How often a unique key was given: a job that is retried takes its key again without a change of the job that stands
-- there. And who was at a job last, which its ended row tells.

ALTER TABLE unique_jobs ADD COLUMN turn bigint NOT NULL DEFAULT 0;
ALTER TABLE closed_jobs ADD COLUMN owner_id text NOT NULL DEFAULT '';
