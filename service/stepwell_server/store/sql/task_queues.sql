-- name: page_task_queues
-- Names of queues after one, in their order: those in which something waits, and those given. Hops over
-- tasks_build_idx from name to name, so that it costs a look a queue however much waits in it.
WITH RECURSIVE waiting (task_queue) AS (
    (
        SELECT t.task_queue FROM tasks AS t
        WHERE t.namespace_id = $1 AND t.task_queue > $2
        ORDER BY t.task_queue
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT t.task_queue FROM tasks AS t
        WHERE t.namespace_id = $1 AND t.task_queue > w.task_queue
        ORDER BY t.task_queue
        LIMIT 1
    )
    FROM waiting AS w
    WHERE w.task_queue IS NOT NULL
)
SELECT q.task_queue
FROM (
    (SELECT w.task_queue FROM waiting AS w WHERE w.task_queue IS NOT NULL LIMIT $4)
    UNION
    SELECT x.task_queue FROM unnest($3::text[]) AS x (task_queue) WHERE x.task_queue > $2
) AS q
ORDER BY q.task_queue
LIMIT $4;

-- name: read_backlogs
-- What waits in queues, by kind, type and build: how many, counted up to a bound, and since when the oldest. Of each
-- queue so many sorts at most. Hops over tasks_build_idx from sort to sort; counts along it, without the rows; finds the
-- oldest by a look a priority.
WITH RECURSIVE sorts (task_queue, place, kind, type, build_id) AS (
    SELECT q.task_queue, 1, f.kind, f.type, f.build_id
    FROM unnest($2::text[]) AS q (task_queue),
        LATERAL (
            SELECT t.kind, t.type, t.build_id FROM tasks AS t
            WHERE t.namespace_id = $1 AND t.task_queue = q.task_queue
            ORDER BY t.kind, t.type, t.build_id
            LIMIT 1
            OFFSET 0
        ) AS f
    UNION ALL
    SELECT s.task_queue, s.place + 1, f.kind, f.type, f.build_id
    FROM sorts AS s,
        LATERAL (
            SELECT t.kind, t.type, t.build_id FROM tasks AS t
            WHERE t.namespace_id = $1 AND t.task_queue = s.task_queue
                AND (t.kind, t.type, t.build_id) > (s.kind, s.type, s.build_id)
            ORDER BY t.kind, t.type, t.build_id
            LIMIT 1
            OFFSET 0
        ) AS f
    WHERE s.place < $4
)
SELECT s.task_queue, s.kind, s.type, s.build_id, c.counted, o.oldest
FROM sorts AS s,
    LATERAL (
        SELECT count(*)::int AS counted
        FROM (
            SELECT FROM tasks AS t
            WHERE t.namespace_id = $1 AND t.task_queue = s.task_queue AND t.kind = s.kind AND t.type = s.type
                AND t.build_id = s.build_id
            LIMIT $3
            OFFSET 0
        ) AS each
    ) AS c,
    LATERAL (
        SELECT min(first.ready_time) AS oldest
        FROM generate_series(0, 9) AS p (rank),
            LATERAL (
                SELECT t.ready_time FROM tasks AS t
                WHERE t.namespace_id = $1 AND t.task_queue = s.task_queue AND t.kind = s.kind AND t.type = s.type
                    AND t.build_id = s.build_id AND t.rank = p.rank
                ORDER BY t.ready_time
                LIMIT 1
                OFFSET 0
            ) AS first
    ) AS o
ORDER BY s.task_queue, s.place;

-- name: count_running_activities
-- How many activities and jobs of each queue sessions are at, and how many of driven runs their engines' workers. Walks
-- steps_session_idx, jobs_session_idx, and steps_driven_idx with runs_pkey.
WITH held AS MATERIALIZED (
    SELECT x.task_queue, count(*) AS counted
    FROM (
        (SELECT s.task_queue FROM steps AS s WHERE s.session_id = ANY($1::uuid[]) OFFSET 0)
        UNION ALL
        (SELECT j.task_queue FROM jobs AS j WHERE j.session_id = ANY($1::uuid[]) OFFSET 0)
    ) AS x
    GROUP BY x.task_queue
)
SELECT q.task_queue,
    (coalesce((SELECT h.counted FROM held AS h WHERE h.task_queue = q.task_queue), 0) + d.counted)::int AS running
FROM unnest($2::text[]) AS q (task_queue),
    LATERAL (
        SELECT count(*) AS counted
        FROM (
            SELECT FROM steps AS s,
                LATERAL (SELECT r.namespace_id FROM runs AS r WHERE r.run_key = s.run_key OFFSET 0) AS r
            WHERE s.task_queue = q.task_queue AND s.kind = 2 AND s.session_id IS NULL AND s.owner_id <> ''
                AND r.namespace_id = $3
            LIMIT 10000
            OFFSET 0
        ) AS each
    ) AS d;
