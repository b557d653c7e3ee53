-- stepwell: no-transaction
-- stepwell: was 8ba03aa9587a5799186208ade8549bfc560793083cf4930f6a3ec9d1bb5f29c9
-- Named payloads of driven runs; and lists of runs by what they belong to.

CREATE TABLE IF NOT EXISTS run_data (
    run_key bigint NOT NULL,
    name text NOT NULL,
    payload bytea NOT NULL,             -- model.payloads.Payload
    PRIMARY KEY (run_key, name)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Of driven runs alone, and of those that have it: others cost nothing.
CREATE INDEX CONCURRENTLY IF NOT EXISTS runs_correlation_idx
    ON runs (namespace_id, correlation_id, run_key) WHERE driven AND correlation_id <> '';
CREATE INDEX CONCURRENTLY IF NOT EXISTS closed_runs_correlation_idx
    ON closed_runs (namespace_id, correlation_id, run_key) WHERE driven AND correlation_id <> '';
CREATE INDEX CONCURRENTLY IF NOT EXISTS runs_parent_idx
    ON runs (parent_key, run_key) WHERE driven AND parent_key IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS closed_runs_parent_idx
    ON closed_runs (parent_key, run_key) WHERE driven AND parent_key IS NOT NULL;
