-- name: claim_tasks
-- The tasks that go first of one queue, kind and set of types, locked so that no other claimer takes them. A type that
-- this worker lacks is never looked at. Walks tasks_claim_idx once a type. Locks tasks, before runs.
SELECT picked.run_key, picked.ordinal, picked.namespace_id, picked.type, picked.ready_time
FROM unnest($4::text[]) AS x (type),
    LATERAL (
        SELECT t.run_key, t.ordinal, t.namespace_id, t.type, t.rank, t.ready_time
        FROM tasks AS t
        WHERE t.namespace_id = $1 AND t.task_queue = $2 AND t.kind = $3 AND t.type = x.type
        ORDER BY t.rank, t.ready_time, t.run_key, t.ordinal
        LIMIT $5
        OFFSET 0
        FOR UPDATE SKIP LOCKED
    ) AS picked
ORDER BY picked.rank, picked.ready_time, picked.run_key, picked.ordinal
LIMIT $5;

-- name: claim_driven_activities
-- The activities of driven runs (kind 4, without a type, all of one rank) of one queue that have waited longest and are
-- to be had at a time, locked so that no other claimer takes them. Walks tasks_claim_idx. Locks tasks, before runs.
SELECT t.run_key, t.ordinal
FROM tasks AS t
WHERE t.namespace_id = $1 AND t.task_queue = $2 AND t.kind = 4 AND t.type = '' AND t.rank = 0 AND t.ready_time <= $3
ORDER BY t.ready_time, t.run_key, t.ordinal
LIMIT $4
FOR UPDATE SKIP LOCKED;

-- name: insert_tasks
INSERT INTO tasks (
    run_key, ordinal, namespace_id, task_queue, kind, type, rank, ready_time, build_id
)
SELECT * FROM unnest(
    $1::bigint[], $2::int[], $3::int[], $4::text[], $5::smallint[], $6::text[], $7::smallint[],
    $8::timestamptz[], $9::text[]
);

-- name: delete_tasks
-- Takes tasks out of their queues. Walks tasks_pkey.
DELETE FROM tasks USING unnest($1::bigint[], $2::int[]) AS x (run_key, ordinal)
WHERE tasks.run_key = x.run_key AND tasks.ordinal = x.ordinal;
