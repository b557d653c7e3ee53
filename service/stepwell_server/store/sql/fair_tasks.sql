-- name: find_fairness_keys
-- The keys of which something waits in a queue, of one kind, set of types and of builds: in their order, from a key ($6)
-- and rank ($7) on, so many ($8), apart from what this batch has taken ($9, $10). Hops over tasks_fairness_idx from key to key, once a type and build, so that it costs a
-- look a key however much waits.
WITH RECURSIVE own (run_key, ordinal) AS (SELECT * FROM unnest($9::bigint[], $10::int[])),
hops (type, build_id, fairness_key, place) AS (
    SELECT x.type, b.build_id, f.fairness_key, 1
    FROM unnest($4::text[]) AS x (type),
        unnest($5::text[]) AS b (build_id),
        LATERAL (
            SELECT t.fairness_key FROM tasks AS t
            WHERE t.namespace_id = $1 AND t.task_queue = $2 AND t.kind = $3 AND t.type = x.type
                AND t.build_id = b.build_id AND t.fairness_key IS NOT NULL
                AND (t.fairness_key, t.rank) > ($6::text, $7::smallint)
                AND (t.run_key, t.ordinal) NOT IN (SELECT o.run_key, o.ordinal FROM own AS o)
            ORDER BY t.fairness_key, t.rank
            LIMIT 1
            OFFSET 0
        ) AS f
    UNION ALL
    SELECT h.type, h.build_id, f.fairness_key, h.place + 1
    FROM hops AS h,
        LATERAL (
            SELECT t.fairness_key FROM tasks AS t
            WHERE t.namespace_id = $1 AND t.task_queue = $2 AND t.kind = $3 AND t.type = h.type
                AND t.build_id = h.build_id AND t.fairness_key IS NOT NULL
                AND (t.fairness_key, t.rank) > (h.fairness_key, 32767::smallint)
                AND (t.run_key, t.ordinal) NOT IN (SELECT o.run_key, o.ordinal FROM own AS o)
            ORDER BY t.fairness_key, t.rank
            LIMIT 1
            OFFSET 0
        ) AS f
    WHERE h.place < $8
)
SELECT DISTINCT h.fairness_key
FROM hops AS h
ORDER BY h.fairness_key
LIMIT $8;

-- name: claim_fair_tasks
-- The tasks that go first of each of some keys ($6), so many of each ($7), apart from what this batch has taken
-- ($8, $9), each with its key's place among them, locked so that no other claimer takes them. Looks at twice as many and some more of each, walking tasks_fairness_idx once a key, type and build, and locks those
-- that nobody else has, through tasks_pkey. Locks tasks, before runs.
WITH own (run_key, ordinal) AS (SELECT * FROM unnest($8::bigint[], $9::int[]))
SELECT picked.run_key, picked.ordinal, picked.ready_time, k.place
FROM unnest($6::text[], $7::int[]) WITH ORDINALITY AS k (fairness_key, most, place),
    LATERAL (
        SELECT p.run_key, p.ordinal, p.ready_time
        FROM (
            SELECT c.run_key, c.ordinal
            FROM unnest($4::text[]) AS x (type),
                unnest($5::text[]) AS b (build_id),
                LATERAL (
                    SELECT t.run_key, t.ordinal, t.rank, t.ready_time
                    FROM tasks AS t
                    WHERE t.namespace_id = $1 AND t.task_queue = $2 AND t.kind = $3 AND t.type = x.type
                        AND t.build_id = b.build_id AND t.fairness_key = k.fairness_key
                        AND (t.run_key, t.ordinal) NOT IN (SELECT o.run_key, o.ordinal FROM own AS o)
                    ORDER BY t.rank, t.ready_time, t.run_key, t.ordinal
                    LIMIT 2 * k.most + 4
                    OFFSET 0
                ) AS c
            ORDER BY c.rank, c.ready_time, c.run_key, c.ordinal
            LIMIT 2 * k.most + 4
        ) AS best,
            LATERAL (
                SELECT t.run_key, t.ordinal, t.ready_time
                FROM tasks AS t
                WHERE t.run_key = best.run_key AND t.ordinal = best.ordinal
                OFFSET 0
                FOR UPDATE SKIP LOCKED
            ) AS p
        LIMIT k.most
    ) AS picked
ORDER BY k.place;
