-- name: hold_lines
-- Takes the locks of lines until the batch ends, if nobody has them: answers those that it got. Who gives out slots of a
-- line has its lock, so that no two count the same slot as free.
SELECT x.stripe
FROM unnest($1::int[]) AS x (stripe)
WHERE pg_try_advisory_xact_lock(hashtext('stepwell concurrency ' || current_schema()), x.stripe);

-- name: read_lines
-- Lines in which somebody waits: what the latest to come asked for, and how many slots are taken, counted up to that.
-- Walks concurrency_slots_waiting_idx, then concurrency_slots_held_idx.
SELECT x.place, n.maximum_runs, n.strategy, h.held
FROM unnest($1::int[], $2::int[], $3::text[], $4::text[]) AS x (place, namespace_id, name, line),
    LATERAL (
        SELECT w.maximum_runs, w.strategy FROM concurrency_slots AS w
        WHERE w.namespace_id = x.namespace_id AND w.name = x.name AND w.line = x.line AND w.admit_time IS NULL
        ORDER BY w.arrive_time DESC, w.run_key DESC LIMIT 1
    ) AS n,
    LATERAL (
        SELECT count(*)::int AS held FROM (
            SELECT 1 FROM concurrency_slots AS c
            WHERE c.namespace_id = x.namespace_id AND c.name = x.name AND c.line = x.line AND c.admit_time IS NOT NULL
            LIMIT n.maximum_runs
        ) AS t
    ) AS h;

-- name: read_line_heads
-- Who waits in lines, oldest first, so many of each. Walks concurrency_slots_waiting_idx.
SELECT x.place, w.run_key, w.gives_way
FROM unnest($1::int[], $2::int[], $3::text[], $4::text[], $5::int[]) AS x (place, namespace_id, name, line, most),
    LATERAL (
        SELECT o.run_key, o.gives_way FROM concurrency_slots AS o
        WHERE o.namespace_id = x.namespace_id AND o.name = x.name AND o.line = x.line AND o.admit_time IS NULL
        ORDER BY o.arrive_time, o.run_key LIMIT x.most
    ) AS w;

-- name: read_superseded
-- Who has come before the newest so many of a line, and was not yet told to give way. Walks concurrency_slots_waiting_idx
-- and concurrency_slots_held_idx from their ends.
SELECT x.place, w.run_key
FROM unnest($1::int[], $2::int[], $3::text[], $4::text[], $5::int[], $6::int[])
        AS x (place, namespace_id, name, line, newest, most),
    LATERAL (
        SELECT u.run_key, u.arrive_time, u.gives_way FROM (
            (
                SELECT o.run_key, o.arrive_time, o.gives_way FROM concurrency_slots AS o
                WHERE o.namespace_id = x.namespace_id AND o.name = x.name AND o.line = x.line AND o.admit_time IS NULL
                ORDER BY o.arrive_time DESC, o.run_key DESC LIMIT x.newest + x.most
            )
            UNION ALL
            (
                SELECT o.run_key, o.arrive_time, o.gives_way FROM concurrency_slots AS o
                WHERE
                    o.namespace_id = x.namespace_id AND o.name = x.name AND o.line = x.line
                    AND o.admit_time IS NOT NULL
                ORDER BY o.arrive_time DESC, o.run_key DESC LIMIT x.newest + x.most
            )
        ) AS u
        ORDER BY u.arrive_time DESC, u.run_key DESC OFFSET x.newest LIMIT x.most
    ) AS w
WHERE NOT w.gives_way
ORDER BY x.place, w.arrive_time, w.run_key;

-- name: read_keys_in_turn
-- The next keys of limits whose keys go in turn, so many of each: those after the one that had the last slot, then from the
-- first on. Walks concurrency_rounds_pkey, and hops along concurrency_slots_key_idx.
SELECT x.place, k.key
FROM unnest($1::int[], $2::int[], $3::text[], $4::int[]) AS x (place, namespace_id, name, most),
    LATERAL (
        SELECT coalesce(
            (
                SELECT r.last_key FROM concurrency_rounds AS r
                WHERE r.namespace_id = x.namespace_id AND r.name = x.name
            ), ''
        ) AS last_key
    ) AS r,
    LATERAL (
        WITH RECURSIVE hop (key, is_again, turn) AS (
            SELECT r.last_key, FALSE, 0
            UNION ALL
            SELECT coalesce(n.key, ''), h.is_again OR n.key IS NULL, h.turn + 1
            FROM hop AS h
            LEFT JOIN LATERAL (
                SELECT w.key FROM concurrency_slots AS w
                WHERE
                    w.namespace_id = x.namespace_id AND w.name = x.name AND w.line = '' AND w.admit_time IS NULL
                    AND w.key > h.key AND (NOT h.is_again OR w.key <= r.last_key)
                ORDER BY w.key LIMIT 1
            ) AS n ON TRUE
            WHERE h.turn <= x.most AND (n.key IS NOT NULL OR NOT h.is_again)
        )
        SELECT hop.key, hop.turn FROM hop WHERE hop.turn > 0 AND hop.key <> '' ORDER BY hop.turn LIMIT x.most
    ) AS k
ORDER BY x.place, k.turn;

-- name: read_key_heads
-- Who of a key waits, oldest first, so many of each. Walks concurrency_slots_key_idx.
SELECT x.place, w.run_key, w.gives_way
FROM unnest($1::int[], $2::int[], $3::text[], $4::text[], $5::int[]) AS x (place, namespace_id, name, key, most),
    LATERAL (
        SELECT o.run_key, o.gives_way FROM concurrency_slots AS o
        WHERE
            o.namespace_id = x.namespace_id AND o.name = x.name AND o.line = '' AND o.key = x.key
            AND o.admit_time IS NULL
        ORDER BY o.arrive_time, o.run_key LIMIT x.most
    ) AS w;

-- name: write_rounds
-- Notes which keys had the last slots. The lock of the line is held. Walks concurrency_rounds_pkey.
INSERT INTO concurrency_rounds (
    namespace_id, name, last_key
)
SELECT * FROM unnest($1::int[], $2::text[], $3::text[])
ON CONFLICT (namespace_id, name) DO UPDATE SET last_key = excluded.last_key;

-- name: prune_rounds
-- Forgets whose turn it is where nobody waits and nobody has a slot, so many at most. Walks concurrency_rounds_pkey, a row
-- a limit, and looks for each at concurrency_slots_key_idx and concurrency_slots_held_idx.
DELETE FROM concurrency_rounds
WHERE (namespace_id, name) IN (
    SELECT r.namespace_id, r.name FROM concurrency_rounds AS r
    WHERE NOT EXISTS (
        SELECT FROM concurrency_slots AS s
        WHERE s.namespace_id = r.namespace_id AND s.name = r.name AND s.line = '' AND s.admit_time IS NULL
        OFFSET 0
    ) AND NOT EXISTS (
        SELECT FROM concurrency_slots AS s
        WHERE s.namespace_id = r.namespace_id AND s.name = r.name AND s.line = '' AND s.admit_time IS NOT NULL
        OFFSET 0
    )
    LIMIT $1::int
);

-- name: find_waiting_lines
-- The next lines in which somebody waits, so many at most. Hops along concurrency_slots_waiting_idx.
WITH RECURSIVE hop (namespace_id, name, line, place) AS (
    (
        SELECT w.namespace_id, w.name, w.line, 1 FROM concurrency_slots AS w
        WHERE w.admit_time IS NULL AND (w.namespace_id, w.name, w.line) > ($1::int, $2::text, $3::text)
        ORDER BY w.namespace_id, w.name, w.line LIMIT 1
    )
    UNION ALL
    SELECT n.namespace_id, n.name, n.line, h.place + 1
    FROM hop AS h,
        LATERAL (
            SELECT w.namespace_id, w.name, w.line FROM concurrency_slots AS w
            WHERE w.admit_time IS NULL AND (w.namespace_id, w.name, w.line) > (h.namespace_id, h.name, h.line)
            ORDER BY w.namespace_id, w.name, w.line LIMIT 1
        ) AS n
    WHERE h.place < $4::int
)
SELECT namespace_id, name, line FROM hop;
