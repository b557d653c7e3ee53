-- Signals of a chain of runs: their ids are unique in all of it, so that a repeat is recognised whichever run took them.

ALTER TABLE signals ADD COLUMN chain_key bigint;    -- the first run of the chain
UPDATE signals SET chain_key = run_key;
ALTER TABLE signals ALTER COLUMN chain_key SET NOT NULL;
DROP INDEX signals_id_idx;
CREATE UNIQUE INDEX signals_chain_idx ON signals (chain_key, signal_id) WHERE signal_id IS NOT NULL;
