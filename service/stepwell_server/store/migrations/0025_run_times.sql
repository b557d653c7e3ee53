-- stepwell: no-transaction
-- stepwell: was 611e3226fa10bc373bad7c4b677af4813668714a873907715175b9512c4963da
-- When ended runs began and ended, for counts and series. Rows come in the order of their ends, so that a few bytes for
-- each thirty-two pages tell which of them to read; an insertion writes no index entry.

CREATE INDEX CONCURRENTLY IF NOT EXISTS closed_runs_times_idx
    ON closed_runs USING brin (create_time, end_time)
    WITH (pages_per_range = 32, autosummarize = on);
