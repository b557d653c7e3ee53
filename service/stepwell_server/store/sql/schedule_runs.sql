-- name: read_open_runs
-- The open runs of schedules, or those that continue them, and whether they were asked to cancel. The last one is looked
-- at even if it was seen ended: it may have been opened again. Walks schedule_runs_pkey, workflow_ids_pkey and runs_pkey.
SELECT x.schedule_id, r.run_key, r.run_id, r.cancel_time IS NOT NULL AS cancel_requested
FROM unnest($1::uuid[], $2::int[], $3::text[]) AS x (schedule_id, namespace_id, last_workflow_id),
    LATERAL (
        SELECT k.workflow_id FROM schedule_runs AS k WHERE k.schedule_id = x.schedule_id
        UNION
        SELECT x.last_workflow_id AS workflow_id WHERE x.last_workflow_id <> ''
    ) AS n,
    LATERAL (
        SELECT o.run_key, o.run_id, o.cancel_time
        FROM workflow_ids AS w
        JOIN runs AS o ON o.run_key = w.run_key
        WHERE w.workflow_id = n.workflow_id AND w.namespace_id = x.namespace_id
        LIMIT 1
        OFFSET 0
    ) AS r;

-- name: forget_ended_runs
-- Runs of schedules that are open no more, nor continued. Waits for nobody. Walks schedule_runs_pkey, workflow_ids_pkey
-- and runs_pkey.
DELETE FROM schedule_runs AS d
USING (
    SELECT k.schedule_id, k.workflow_id
    FROM unnest($1::uuid[], $2::int[]) AS x (schedule_id, namespace_id)
    JOIN schedule_runs AS k ON k.schedule_id = x.schedule_id
    LEFT JOIN LATERAL (
        SELECT o.run_key
        FROM workflow_ids AS w
        JOIN runs AS o ON o.run_key = w.run_key
        WHERE w.workflow_id = k.workflow_id AND w.namespace_id = x.namespace_id
        LIMIT 1
        OFFSET 0
    ) AS r ON TRUE
    WHERE r.run_key IS NULL
    FOR UPDATE OF k SKIP LOCKED
) AS e
WHERE d.schedule_id = e.schedule_id AND d.workflow_id = e.workflow_id;

-- name: forget_oldest_runs
-- All but the newest runs of schedules. Waits for nobody. Walks schedule_runs_pkey.
DELETE FROM schedule_runs AS d
USING (
    SELECT o.schedule_id, o.workflow_id
    FROM unnest($1::uuid[]) AS x (schedule_id),
        LATERAL (
            SELECT k.schedule_id, k.workflow_id
            FROM schedule_runs AS k
            WHERE k.schedule_id = x.schedule_id
            ORDER BY k.note_time DESC, k.workflow_id DESC
            OFFSET $2
        ) AS l
    JOIN schedule_runs AS o ON o.schedule_id = l.schedule_id AND o.workflow_id = l.workflow_id
    FOR UPDATE OF o SKIP LOCKED
) AS e
WHERE d.schedule_id = e.schedule_id AND d.workflow_id = e.workflow_id;
