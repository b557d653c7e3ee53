-- stepwell: no-transaction
-- stepwell: min-server 7
-- stepwell: was fcb40f9b8968ff32b84339c274eb6a3cd903f520c20ca6ec15b7fbef99d48cbd
-- Signals of a chain of runs: their ids are unique in all of it, so that a repeat is recognised whichever run took them.

ALTER TABLE signals ADD COLUMN IF NOT EXISTS chain_key bigint;      -- the first run of the chain
ALTER TABLE signals DROP CONSTRAINT IF EXISTS signals_chain_key_there;
ALTER TABLE signals ADD CONSTRAINT signals_chain_key_there CHECK (chain_key IS NOT NULL) NOT VALID;
DO $$
DECLARE
    last_key bigint := -1;
    last_ordinal int := 0;
BEGIN
    LOOP
        WITH slice AS (
            SELECT o.run_key, o.ordinal FROM signals AS o
            WHERE (o.run_key, o.ordinal) > (last_key, last_ordinal)
            ORDER BY o.run_key, o.ordinal LIMIT 2000
        ), filled AS (
            UPDATE signals AS s SET chain_key = s.run_key FROM slice AS x
            WHERE s.run_key = x.run_key AND s.ordinal = x.ordinal AND s.chain_key IS NULL
        )
        SELECT y.run_key, y.ordinal INTO last_key, last_ordinal
        FROM slice AS y ORDER BY y.run_key DESC, y.ordinal DESC LIMIT 1;
        EXIT WHEN NOT FOUND;
        COMMIT;
    END LOOP;
END
$$;
ALTER TABLE signals VALIDATE CONSTRAINT signals_chain_key_there;
-- It believes the constraint, and reads nothing.
ALTER TABLE signals ALTER COLUMN chain_key SET NOT NULL;
ALTER TABLE signals DROP CONSTRAINT signals_chain_key_there;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS signals_chain_idx
    ON signals (chain_key, signal_id) WHERE signal_id IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS signals_id_idx;
