-- name: read_signals
-- The next signals of one name that nobody has taken, after an ordinal, oldest first. Walks signals_name_idx.
SELECT
    s.run_key, s.ordinal, s.name, s.event, s.signal_id, s.consumed, s.receive_time
FROM unnest($1::bigint[], $2::text[], $3::int[]) AS x (run_key, name, after),
    LATERAL (
        SELECT * FROM signals AS o
        WHERE o.run_key = x.run_key AND o.name = x.name AND o.ordinal > x.after AND NOT o.consumed
        ORDER BY o.ordinal
        LIMIT $4
        OFFSET 0
    ) AS s;

-- name: read_signal_ids
-- Signals by the ids that their senders gave. Walks signals_id_idx.
SELECT
    s.run_key, s.ordinal, s.name, s.event, s.signal_id, s.consumed, s.receive_time
FROM unnest($1::bigint[], $2::text[]) AS x (run_key, signal_id),
    LATERAL (SELECT * FROM signals AS o WHERE o.run_key = x.run_key AND o.signal_id = x.signal_id OFFSET 0) AS s;

-- name: insert_signals
INSERT INTO signals (
    run_key, ordinal, name, event, signal_id, consumed, receive_time
)
SELECT * FROM unnest(
    $1::bigint[], $2::int[], $3::text[], $4::int[], $5::text[], $6::boolean[], $7::timestamptz[]
);

-- name: consume_signals
-- Marks signals as taken. Walks signals_pkey.
UPDATE signals SET consumed = TRUE
FROM unnest($1::bigint[], $2::int[]) AS x (run_key, ordinal)
WHERE signals.run_key = x.run_key AND signals.ordinal = x.ordinal AND NOT signals.consumed;

-- name: delete_signals
-- Forgets the signals of ended runs; their history keeps them. Those with an id stay a day, so that a repeat is
-- recognised. Walks signals_pkey.
DELETE FROM signals WHERE run_key = ANY($1::bigint[]) AND signal_id IS NULL;
