-- name: find_limited_keys
-- The keys of which something waits in a queue, of one kind, set of types and of builds, each with until when its
-- bucket is spent: in their order, from a key ($6) and rank ($7) on, apart from what this batch has taken ($10, $11).
-- Ends behind so many ($8) that have a token, or so many ($9) in all, and says after each how many had one: those
-- spent until $12 at the latest. One written under a slower limit, which would fill in more than so many seconds
-- ($13), is spent until $14 at the latest. Hops over tasks_fairness_idx from key to key, and looks for each at
-- key_buckets_pkey.
WITH RECURSIVE own (run_key, ordinal) AS (SELECT * FROM unnest($10::bigint[], $11::int[])),
hops (fairness_key, rank, spent_until, open, place) AS (
    SELECT $6::text COLLATE "C", $7::smallint, NULL::timestamptz, 0, 0
    UNION ALL
    SELECT
        f.fairness_key, 32767::smallint, s.spent_until,
        h.open + CASE WHEN s.spent_until > $12::timestamptz THEN 0 ELSE 1 END,
        h.place + 1
    FROM hops AS h,
        LATERAL (
            SELECT n.fairness_key
            FROM unnest($4::text[]) AS x (type),
                unnest($5::text[]) AS b (build_id),
                LATERAL (
                    SELECT t.fairness_key FROM tasks AS t
                    WHERE t.namespace_id = $1 AND t.task_queue = $2 AND t.kind = $3 AND t.type = x.type
                        AND t.build_id = b.build_id AND t.fairness_key IS NOT NULL
                        AND (t.fairness_key, t.rank) > (h.fairness_key, h.rank)
                        AND (t.run_key, t.ordinal) NOT IN (SELECT o.run_key, o.ordinal FROM own AS o)
                    ORDER BY t.fairness_key, t.rank
                    LIMIT 1
                    OFFSET 0
                ) AS n
            ORDER BY n.fairness_key
            LIMIT 1
            OFFSET 0
        ) AS f
        LEFT JOIN LATERAL (
            SELECT CASE WHEN k.fill_seconds > $13::double precision THEN LEAST(k.spent_until, $14::timestamptz)
                ELSE k.spent_until END AS spent_until
            FROM key_buckets AS k
            WHERE k.namespace_id = $1 AND k.task_queue = $2 AND k.fairness_key = f.fairness_key
            OFFSET 0
        ) AS s ON true
    WHERE h.open < $8 AND h.place < $9
)
SELECT h.fairness_key, h.spent_until, h.open
FROM hops AS h
WHERE h.place > 0
ORDER BY h.place;

-- name: write_key_buckets
-- Notes what was taken out of the buckets of keys of queues that the batch has locked. Walks key_buckets_pkey. Locks
-- key_buckets, of one queue at a time in the order of its keys.
INSERT INTO key_buckets (namespace_id, task_queue, fairness_key, spent_until, fill_seconds)
SELECT x.namespace_id, x.task_queue, x.fairness_key, x.spent_until, x.fill_seconds
FROM unnest($1::int[], $2::text[], $3::text[], $4::timestamptz[], $5::double precision[]) AS x (
    namespace_id, task_queue, fairness_key, spent_until, fill_seconds
)
ON CONFLICT (namespace_id, task_queue, fairness_key) DO UPDATE
SET spent_until = excluded.spent_until, fill_seconds = excluded.fill_seconds;

-- name: next_key_buckets
-- The key at which a slice of buckets ends. Walks key_buckets_pkey.
SELECT x.namespace_id, x.task_queue, x.fairness_key
FROM (
    SELECT k.namespace_id, k.task_queue, k.fairness_key
    FROM key_buckets AS k
    WHERE (k.namespace_id, k.task_queue, k.fairness_key) > ($1, $2, $3)
    ORDER BY k.namespace_id, k.task_queue, k.fairness_key
    LIMIT $4
) AS x
ORDER BY x.namespace_id DESC, x.task_queue DESC, x.fairness_key DESC
LIMIT 1;

-- name: prune_key_buckets
-- Forgets, in a slice, buckets that are full by now ($7), also if it is a new limit that has filled them, and those of
-- queues whose keys have no limit any more. What a batch is writing stays. Walks key_buckets_pkey, and looks at
-- queue_settings_pkey.
DELETE FROM key_buckets AS k
USING (
    SELECT b.namespace_id, b.task_queue, b.fairness_key
    FROM key_buckets AS b
    WHERE (b.namespace_id, b.task_queue, b.fairness_key) > ($1, $2, $3)
        AND (b.namespace_id, b.task_queue, b.fairness_key) <= ($4, $5, $6)
        AND (
            b.spent_until <= $7
            OR NOT EXISTS (
                SELECT FROM queue_settings AS q
                WHERE q.namespace_id = b.namespace_id AND q.task_queue = b.task_queue
                    AND (
                        b.fill_seconds <= q.key_rate_burst / q.key_rate_per_second
                        OR q.update_time + q.key_rate_burst / q.key_rate_per_second * interval '1 s' > $7::timestamptz
                    )
                OFFSET 0
            )
        )
    FOR UPDATE OF b SKIP LOCKED
) AS x
WHERE k.namespace_id = x.namespace_id AND k.task_queue = x.task_queue AND k.fairness_key = x.fairness_key
RETURNING k.fairness_key;
