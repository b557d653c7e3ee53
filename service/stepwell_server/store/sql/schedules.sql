-- name: read_due_schedules
-- Schedules whose time has come, earliest first, but for those that are paused: an outside engine that notes a firing
-- of such a one may give it a next time. Walks schedules_next_idx.
SELECT
    s.schedule_id, s.namespace_id, s.name, s.cron, s.time_zone, s.jitter_seconds, s.start_time, s.end_time,
    s.overlap_policy, s.catchup_seconds, s.run, s.pause_reason, s.create_time, s.update_time, s.version, s.next_time,
    s.next_nominal, s.waiting, s.last_time, s.last_workflow_id, s.last_run_id, s.fired, s.skipped, s.missed,
    s.last_error
FROM schedules AS s
WHERE s.next_time <= $1 AND s.pause_reason IS NULL
ORDER BY s.next_time
LIMIT $2;

-- name: read_waiting_schedules
-- Schedules with firings that wait, in turn: by id, after the last one looked at. Walks schedules_waiting_idx.
SELECT
    s.schedule_id, s.namespace_id, s.name, s.cron, s.time_zone, s.jitter_seconds, s.start_time, s.end_time,
    s.overlap_policy, s.catchup_seconds, s.run, s.pause_reason, s.create_time, s.update_time, s.version, s.next_time,
    s.next_nominal, s.waiting, s.last_time, s.last_workflow_id, s.last_run_id, s.fired, s.skipped, s.missed,
    s.last_error
FROM schedules AS s
WHERE s.waiting > 0 AND s.schedule_id > $1
ORDER BY s.schedule_id
LIMIT $2;

-- name: next_schedule_after
-- When the next schedule is due. Walks schedules_next_idx.
SELECT min(s.next_time) AS next_time FROM schedules AS s WHERE s.next_time > $1;

-- name: read_waiting_firings
-- The earliest of each schedule's firings that wait. Walks schedule_firings_pkey.
SELECT f.schedule_id, f.nominal_time, f.overlap_policy
FROM unnest($1::uuid[]) AS x (schedule_id),
    LATERAL (
        SELECT w.schedule_id, w.nominal_time, w.overlap_policy
        FROM schedule_firings AS w
        WHERE w.schedule_id = x.schedule_id
        ORDER BY w.nominal_time
        LIMIT $2
    ) AS f;

-- name: write_fired
-- Notes what became of due schedules, all of one or nothing: one that somebody has changed meanwhile is left as it is,
-- and looked at again. The ids of the runs follow from the times, so that nothing starts twice. Walks schedules_pkey
-- and schedule_firings_pkey.
WITH x AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::uuid[],
        $8::bigint[], $9::bigint[], $10::bigint[], $11::text[]
    ) AS u (
        schedule_id, version, next_time, next_nominal, last_time, last_workflow_id, last_run_id, fired, skipped, missed,
        last_error
    )
), due AS (
    SELECT l.schedule_id FROM schedules AS l JOIN x ON l.schedule_id = x.schedule_id AND l.version = x.version
    FOR NO KEY UPDATE OF l
), gone AS (
    DELETE FROM schedule_firings AS f
    USING unnest($12::uuid[], $13::timestamptz[]) AS y (schedule_id, nominal_time), due AS d
    WHERE f.schedule_id = y.schedule_id AND f.nominal_time = y.nominal_time AND d.schedule_id = y.schedule_id
    RETURNING f.schedule_id
), kept AS (
    INSERT INTO schedule_firings (schedule_id, nominal_time, overlap_policy)
    SELECT z.schedule_id, z.nominal_time, z.overlap_policy
    FROM unnest($14::uuid[], $15::timestamptz[], $16::smallint[]) AS z (schedule_id, nominal_time, overlap_policy)
    JOIN due AS e ON e.schedule_id = z.schedule_id
    ON CONFLICT DO NOTHING
    RETURNING schedule_id
), begun AS (
    INSERT INTO schedule_runs (schedule_id, workflow_id, note_time)
    SELECT v.schedule_id, v.workflow_id, v.note_time
    FROM unnest($17::uuid[], $18::text[], $19::timestamptz[]) AS v (schedule_id, workflow_id, note_time)
    JOIN due AS b ON b.schedule_id = v.schedule_id
    ON CONFLICT DO NOTHING
), done AS (
    UPDATE schedules AS s SET
        version = s.version + 1,
        next_time = x.next_time,
        next_nominal = x.next_nominal,
        waiting = s.waiting
            + (SELECT count(*) FROM kept AS k WHERE k.schedule_id = s.schedule_id)::int
            - (SELECT count(*) FROM gone AS g WHERE g.schedule_id = s.schedule_id)::int,
        last_time = coalesce(x.last_time, s.last_time),
        last_workflow_id = coalesce(x.last_workflow_id, s.last_workflow_id),
        last_run_id = coalesce(x.last_run_id, s.last_run_id),
        fired = s.fired + x.fired,
        skipped = s.skipped + x.skipped,
        missed = s.missed + x.missed,
        last_error = x.last_error
    FROM x JOIN due AS w ON w.schedule_id = x.schedule_id
    WHERE s.schedule_id = x.schedule_id
    RETURNING s.schedule_id
)
SELECT count(*) AS written FROM done;
