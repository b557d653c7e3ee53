-- stepwell: no-transaction
-- stepwell: was a00e0fab4f1fedde88b4c7168e9fa402f09e463a6d7d7260c9aecf13dd03d739
-- Finding ended jobs by their unique key, and those that did not complete. Whoever has no key, and completes, costs nothing.

CREATE INDEX CONCURRENTLY IF NOT EXISTS closed_jobs_unique_key_idx
    ON closed_jobs (unique_key, namespace_id, job_key) WHERE unique_key <> '';
CREATE INDEX CONCURRENTLY IF NOT EXISTS closed_jobs_unfinished_idx
    ON closed_jobs (namespace_id, job_key) WHERE state > 4;
