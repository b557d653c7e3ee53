-- name: claim_tasks
-- The tasks that go first of one queue, kind, set of types and of builds, locked so that no other claimer takes them. A
-- type that this worker lacks, or a build that it does not take, is never looked at. Looks at $5 candidates, walking
-- pieces of tasks_build_idx, and locks of those the first $4 that nobody else has, through tasks_pkey. The last rows say
-- how many candidates there were of each type, build and rank, and since when the first is ready. Locks tasks, before runs.
WITH candidates AS MATERIALIZED (
    SELECT c.run_key, c.ordinal, x.type, x.build_id, c.rank, c.ready_time
    FROM unnest($6::text[], $7::text[], $8::smallint[], $9::timestamptz[], $10::smallint[])
            AS x (type, build_id, from_rank, from_time, to_rank),
        LATERAL (
            SELECT t.run_key, t.ordinal, t.rank, t.ready_time
            FROM tasks AS t
            WHERE t.namespace_id = $1 AND t.task_queue = $2 AND t.kind = $3 AND t.type = x.type
                AND t.build_id = x.build_id
                AND (t.rank, t.ready_time) >= (x.from_rank, x.from_time) AND t.rank <= x.to_rank
            ORDER BY t.rank, t.ready_time, t.run_key, t.ordinal
            LIMIT $5
            OFFSET 0
        ) AS c
    ORDER BY c.rank, c.ready_time, c.run_key, c.ordinal
    LIMIT $5
)
(
    SELECT picked.run_key, picked.ordinal, picked.ready_time, NULL AS type, NULL AS build_id, NULL AS rank
    FROM candidates AS c,
        LATERAL (
            SELECT t.run_key, t.ordinal, t.ready_time
            FROM tasks AS t
            WHERE t.run_key = c.run_key AND t.ordinal = c.ordinal
            OFFSET 0
            FOR UPDATE SKIP LOCKED
        ) AS picked
    LIMIT $4
)
UNION ALL
SELECT count(*), -1, min(c.ready_time), c.type, c.build_id, c.rank
FROM candidates AS c
GROUP BY c.type, c.build_id, c.rank;

-- name: claim_aging_tasks
-- As claim_tasks, of a queue whose tasks gain a step of priority in each $8 seconds that they wait. How much two of them
-- gained differs by how much longer one waited, so their order never changes: a task stands where one of the highest rank
-- would stand that came so much later. Merges the heads of the ten ranks, walking tasks_build_idx once a type, build and
-- rank, and locks through tasks_pkey. Locks tasks, before runs.
WITH candidates AS MATERIALIZED (
    SELECT c.run_key, c.ordinal
    FROM unnest($4::text[]) AS x (type),
        unnest($5::text[]) AS b (build_id),
        generate_series(0, 9) AS p (rank),
        LATERAL (
            SELECT t.run_key, t.ordinal, t.ready_time, t.ready_time + t.rank * $8::double precision * interval '1 s' AS place
            FROM tasks AS t
            WHERE t.namespace_id = $1 AND t.task_queue = $2 AND t.kind = $3 AND t.type = x.type
                AND t.build_id = b.build_id AND t.rank = p.rank
            ORDER BY t.ready_time, t.run_key, t.ordinal
            LIMIT $7
            OFFSET 0
        ) AS c
    ORDER BY c.place, c.run_key, c.ordinal
    LIMIT $7
)
(
    SELECT picked.run_key, picked.ordinal, picked.ready_time
    FROM candidates AS c,
        LATERAL (
            SELECT t.run_key, t.ordinal, t.ready_time
            FROM tasks AS t
            WHERE t.run_key = c.run_key AND t.ordinal = c.ordinal
            OFFSET 0
            FOR UPDATE SKIP LOCKED
        ) AS picked
    LIMIT $6
)
UNION ALL
SELECT count(*), -1, NULL FROM candidates;

-- name: claim_driven_activities
-- The activities of driven runs (kind 4, without a type, all of one rank) of one queue that have waited longest and are
-- to be had at a time, locked so that no other claimer takes them. Walks tasks_build_idx. Locks tasks, before runs.
SELECT t.run_key, t.ordinal
FROM tasks AS t
WHERE t.namespace_id = $1 AND t.task_queue = $2 AND t.kind = 4 AND t.type = '' AND t.build_id = '' AND t.rank = 0
    AND t.ready_time <= $3
ORDER BY t.ready_time, t.run_key, t.ordinal
LIMIT $4
FOR UPDATE SKIP LOCKED;

-- name: insert_tasks
COPY tasks (
    run_key, ordinal, namespace_id, task_queue, kind, type, rank, ready_time, build_id, fairness_key
) FROM STDIN (FORMAT binary);

-- name: delete_tasks
-- Takes tasks out of their queues. Walks tasks_pkey.
DELETE FROM tasks USING unnest($1::bigint[], $2::int[]) AS x (run_key, ordinal)
WHERE tasks.run_key = x.run_key AND tasks.ordinal = x.ordinal;
