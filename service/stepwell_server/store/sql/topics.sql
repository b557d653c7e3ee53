-- name: hold_topics
-- Takes the locks of topics, shared and until the batch ends, if nobody is about to look who waits: answers those that it
-- got. While one is held the look waits, and then sees what the batch wrote.
SELECT x.stripe
FROM unnest($1::int[]) AS x (stripe)
WHERE pg_try_advisory_xact_lock_shared(hashtext('stepwell topics ' || current_schema()), x.stripe);

-- name: await_batches
-- Returns when all batches have ended that held the locks of these topics: whatever waits they recorded is seen then.
SELECT pg_advisory_xact_lock(hashtext('stepwell topics ' || current_schema()), x.stripe)
FROM unnest($1::int[]) AS x (stripe);

-- name: read_topics
-- How topics look to waits that begin: the last event, the last one that the chain of runs has had, and the first few
-- after that, or after a number if that is greater, which are kept. Walks topic_events_pkey twice, and
-- topic_positions_pkey.
SELECT
    x.place, coalesce(l.number, 0) AS last_number, x.had, n.number, n.retain_time, n.attributes
FROM (
    SELECT
        a.place, a.namespace_id, a.topic, a.after_number,
        coalesce(
            (SELECT p.number FROM topic_positions AS p WHERE p.chain_key = a.chain_key AND p.topic = a.topic), 0
        ) AS had
    FROM unnest($1::int[], $2::int[], $3::text[], $4::bigint[], $5::bigint[])
        AS a (place, namespace_id, topic, chain_key, after_number)
    OFFSET 0
) AS x
LEFT JOIN LATERAL (
    SELECT e.number FROM topic_events AS e
    WHERE e.namespace_id = x.namespace_id AND e.topic = x.topic
    ORDER BY e.number DESC
    LIMIT 1
) AS l ON TRUE
LEFT JOIN LATERAL (
    SELECT e.number, e.retain_time, e.attributes FROM topic_events AS e
    WHERE e.namespace_id = x.namespace_id AND e.topic = x.topic AND e.number > greatest(x.had, x.after_number)
        AND e.retain_time > $6
    ORDER BY e.number
    LIMIT $7
) AS n ON TRUE
ORDER BY x.place, n.number;

-- name: copy_topic_events
-- Appends events of topics to the histories of runs that get them. Walks topic_events_pkey.
INSERT INTO events (
    run_key, number, type, origin, step_ordinal, event_time, payload_kind, payload, caller_type, caller_seq, attributes
)
SELECT
    x.run_key, x.number, $9, $10, x.step_ordinal, x.event_time, e.payload_kind, e.payload, NULL, 0, x.attributes
FROM unnest($1::bigint[], $2::int[], $3::int[], $4::timestamptz[], $5::bytea[], $6::int[], $7::text[], $8::bigint[])
    AS x (run_key, number, step_ordinal, event_time, attributes, namespace_id, topic, from_number),
    LATERAL (
        SELECT * FROM topic_events AS o
        WHERE o.namespace_id = x.namespace_id AND o.topic = x.topic AND o.number = x.from_number
        OFFSET 0
    ) AS e;

-- name: write_topic_positions
-- Notes which events chains of runs have had. Walks topic_positions_pkey.
INSERT INTO topic_positions (
    chain_key, topic, number, expire_time
)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::timestamptz[])
ON CONFLICT (chain_key, topic) DO UPDATE SET
    number = greatest(topic_positions.number, excluded.number),
    expire_time = greatest(topic_positions.expire_time, excluded.expire_time);

-- name: read_undelivered
-- Events that are on their way, oldest first, with what they carry where that is small. Walks topic_events_number_idx.
SELECT
    e.namespace_id, e.topic, e.number, e.retain_time, e.attributes, coalesce(octet_length(e.payload), 0) AS size,
    e.payload_kind, CASE WHEN octet_length(e.payload) <= $2 THEN e.payload END AS payload
FROM topic_events AS e
WHERE NOT e.is_delivered
ORDER BY e.number
LIMIT $1;

-- name: read_waiting
-- Runs that wait on topics since before an event, by key after a place, so many of each. Walks topic_waits_topic_idx.
SELECT x.place, w.run_key
FROM unnest($1::int[], $2::int[], $3::text[], $4::bigint[], $5::bigint[], $6::int[])
        AS x (place, namespace_id, topic, number, after_key, most),
    LATERAL (
        SELECT o.run_key FROM topic_waits AS o
        WHERE o.namespace_id = x.namespace_id AND o.topic = x.topic AND o.run_key > x.after_key
            AND o.after_number < x.number
        ORDER BY o.run_key, o.ordinal
        LIMIT x.most
    ) AS w
ORDER BY x.place, w.run_key;

-- name: note_delivered
-- Of events that have reached all, keeps those that later waits may get and forgets the rest. Walks topic_events_pkey.
WITH kept AS (
    UPDATE topic_events AS e SET is_delivered = TRUE
    FROM unnest($1::int[], $2::text[], $3::bigint[]) AS x (namespace_id, topic, number)
    WHERE e.namespace_id = x.namespace_id AND e.topic = x.topic AND e.number = x.number AND e.retain_time IS NOT NULL
)
DELETE FROM topic_events AS e
USING unnest($1::int[], $2::text[], $3::bigint[]) AS x (namespace_id, topic, number)
WHERE e.namespace_id = x.namespace_id AND e.topic = x.topic AND e.number = x.number AND e.retain_time IS NULL;

-- name: prune_topic_events
-- Forgets events whose time is over. Walks topic_events_retain_idx, then topic_events_pkey.
DELETE FROM topic_events AS e
USING (
    SELECT o.namespace_id, o.topic, o.number
    FROM topic_events AS o
    WHERE o.is_delivered AND o.retain_time < $1
    ORDER BY o.retain_time
    LIMIT $2
) AS x
WHERE e.namespace_id = x.namespace_id AND e.topic = x.topic AND e.number = x.number
RETURNING e.number;

-- name: prune_topic_positions
-- Forgets which events were had that are kept for nobody any more. Walks topic_positions_expire_idx, then
-- topic_positions_pkey.
DELETE FROM topic_positions AS p
USING (
    SELECT o.chain_key, o.topic FROM topic_positions AS o WHERE o.expire_time < $1 ORDER BY o.expire_time LIMIT $2
) AS x
WHERE p.chain_key = x.chain_key AND p.topic = x.topic
RETURNING p.chain_key;
