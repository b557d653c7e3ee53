-- name: read_backlog
-- What is to be had at a time and waits, by namespace, queue, kind and sort: how many, counted up to a bound for each
-- priority, and since when the oldest. So many sorts at most (a sort is of one type and build). Hops over
-- tasks_build_idx from sort to sort, and walks a bounded piece of it for each priority; then namespaces_pkey.
WITH RECURSIVE sorts (namespace_id, task_queue, kind, type, build_id, place) AS (
    (
        SELECT t.namespace_id, t.task_queue, t.kind, t.type, t.build_id, 1
        FROM tasks AS t
        ORDER BY t.namespace_id, t.task_queue, t.kind, t.type, t.build_id
        LIMIT 1
    )
    UNION ALL
    SELECT f.namespace_id, f.task_queue, f.kind, f.type, f.build_id, s.place + 1
    FROM sorts AS s,
        LATERAL (
            SELECT t.namespace_id, t.task_queue, t.kind, t.type, t.build_id FROM tasks AS t
            WHERE (t.namespace_id, t.task_queue, t.kind, t.type, t.build_id)
                > (s.namespace_id, s.task_queue, s.kind, s.type, s.build_id)
            ORDER BY t.namespace_id, t.task_queue, t.kind, t.type, t.build_id
            LIMIT 1
            OFFSET 0
        ) AS f
    WHERE s.place < $2
)
SELECT
    n.name, s.task_queue, s.kind, sum(w.waiting)::int AS waiting, min(w.oldest) AS oldest, s.namespace_id, s.type,
    s.build_id
FROM sorts AS s
CROSS JOIN LATERAL (SELECT o.name FROM namespaces AS o WHERE o.namespace_id = s.namespace_id OFFSET 0) AS n
CROSS JOIN generate_series(0, 9) AS p (rank)
CROSS JOIN LATERAL (
    SELECT count(*) AS waiting, min(each.ready_time) AS oldest
    FROM (
        SELECT t.ready_time FROM tasks AS t
        WHERE t.namespace_id = s.namespace_id AND t.task_queue = s.task_queue AND t.kind = s.kind
            AND t.type = s.type AND t.build_id = s.build_id AND t.rank = p.rank AND t.ready_time <= $1
        ORDER BY t.ready_time
        LIMIT $3
        OFFSET 0
    ) AS each
) AS w
WHERE w.waiting > 0
GROUP BY n.name, s.task_queue, s.kind, s.namespace_id, s.type, s.build_id
ORDER BY n.name, s.task_queue, s.kind, s.type, s.build_id;

-- name: count_dead_letters
-- How many there are, counted up to a bound. Walks dead_letters_pkey.
SELECT count(*)::int AS letters FROM (SELECT d.number FROM dead_letters AS d WHERE d.number > 0 LIMIT $1) AS each;
