-- What watches tell of runs besides their ends, by batch: the events that say so, each a run's key and its number packed.

ALTER TABLE batches ADD COLUMN notices bigint[];
