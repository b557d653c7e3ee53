-- Named payloads of driven runs; and lists of runs by what they belong to.

CREATE TABLE run_data (
    run_key bigint NOT NULL,
    name text NOT NULL,
    payload bytea NOT NULL,             -- model.payloads.Payload
    PRIMARY KEY (run_key, name)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Of driven runs alone, and of those that have it: others cost nothing.
CREATE INDEX runs_correlation_idx ON runs (namespace_id, correlation_id, run_key)
    WHERE driven AND correlation_id <> '';
CREATE INDEX closed_runs_correlation_idx ON closed_runs (namespace_id, correlation_id, run_key)
    WHERE driven AND correlation_id <> '';
CREATE INDEX runs_parent_idx ON runs (parent_key, run_key) WHERE driven AND parent_key IS NOT NULL;
CREATE INDEX closed_runs_parent_idx ON closed_runs (parent_key, run_key) WHERE driven AND parent_key IS NOT NULL;
