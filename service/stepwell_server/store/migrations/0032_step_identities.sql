-- stepwell: no-transaction
-- Steps by their identity, in an index that no look by ordinal can take for its own: both begin with the run, and while
-- runs have few steps the planner holds them for equal. A look would then pass all open steps of its run.
-- `ordinal > 0` is so of every step, and only who says it gets this index.

CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS steps_identity_idx
    ON steps (run_key, scope, name, occurrence, key) WHERE ordinal > 0;
DROP INDEX CONCURRENTLY IF EXISTS steps_name_idx;
