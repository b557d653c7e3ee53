-- name: next_step_after
-- When the next step wants to be looked at, after a time: what is overdue does not hide what comes. Walks
-- steps_managed_wake_idx.
SELECT wake_time FROM steps WHERE wake_time > $1 AND managed ORDER BY wake_time LIMIT 1;

-- name: next_run_after
-- When the next run wants to be looked at, after a time. Walks runs_managed_wake_idx.
SELECT wake_time FROM runs WHERE wake_time > $1 AND managed ORDER BY wake_time LIMIT 1;
