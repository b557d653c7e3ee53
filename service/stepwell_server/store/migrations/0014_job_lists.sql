-- Finding ended jobs by their unique key, and those that did not complete. Whoever has no key, and completes, costs nothing.

CREATE INDEX closed_jobs_unique_key_idx ON closed_jobs (unique_key, namespace_id, job_key) WHERE unique_key <> '';
CREATE INDEX closed_jobs_unfinished_idx ON closed_jobs (namespace_id, job_key) WHERE state > 4;
