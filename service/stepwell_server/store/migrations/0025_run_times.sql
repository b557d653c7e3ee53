-- When ended runs began and ended, for counts and series. Rows come in the order of their ends, so that a few bytes for
-- each thirty-two pages tell which of them to read; an insertion writes no index entry.

CREATE INDEX closed_runs_times_idx ON closed_runs USING brin (create_time, end_time)
    WITH (pages_per_range = 32, autosummarize = on);
