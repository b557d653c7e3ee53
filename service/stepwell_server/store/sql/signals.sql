-- name: read_signals
-- The next signals of one name that nobody has taken, after an ordinal, oldest first. Walks signals_name_idx.
SELECT
    s.run_key, s.ordinal, s.name, s.event, s.signal_id, s.consumed, s.receive_time, s.chain_key
FROM unnest($1::bigint[], $2::text[], $3::int[]) AS x (run_key, name, after),
    LATERAL (
        SELECT * FROM signals AS o
        WHERE o.run_key = x.run_key AND o.name = x.name AND o.ordinal > x.after AND NOT o.consumed
        ORDER BY o.ordinal
        LIMIT $4
        OFFSET 0
    ) AS s;

-- name: read_signal_ids
-- Signals by the ids that their senders gave, whichever run of a chain got them. Walks signals_chain_idx.
SELECT
    s.run_key, s.ordinal, s.name, s.event, s.signal_id, s.consumed, s.receive_time, s.chain_key
FROM unnest($1::bigint[], $2::text[]) AS x (chain_key, signal_id),
    LATERAL (SELECT * FROM signals AS o WHERE o.chain_key = x.chain_key AND o.signal_id = x.signal_id OFFSET 0) AS s;

-- name: read_left_signals
-- Signals of runs that nobody has taken, those of a name in their order, so many of each run, with the bytes of what they
-- carry. Walks signals_name_idx, then the primary key of one partition of events.
SELECT
    s.run_key, s.ordinal, s.name, s.event, s.signal_id, s.consumed, s.receive_time, s.chain_key,
    coalesce(
        (SELECT octet_length(e.payload) FROM events AS e WHERE e.run_key = s.run_key AND e.number = s.event), 0
    ) AS size
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (
        SELECT * FROM signals AS o
        WHERE o.run_key = x.run_key AND NOT o.consumed
        ORDER BY o.name, o.ordinal
        LIMIT $2
        OFFSET 0
    ) AS s
ORDER BY s.run_key, s.name, s.ordinal;

-- name: insert_signals
COPY signals (run_key, ordinal, name, event, signal_id, consumed, receive_time, chain_key) FROM STDIN (FORMAT binary);

-- name: consume_signals
-- Marks signals as taken. Walks signals_pkey.
UPDATE signals SET consumed = TRUE
FROM unnest($1::bigint[], $2::int[]) AS x (run_key, ordinal)
WHERE signals.run_key = x.run_key AND signals.ordinal = x.ordinal;

-- name: carry_signals_away
-- Takes signals from runs whose successors get them. Walks signals_pkey.
DELETE FROM signals USING unnest($1::bigint[], $2::int[]) AS x (run_key, ordinal)
WHERE signals.run_key = x.run_key AND signals.ordinal = x.ordinal;

-- name: read_kept_signals
-- All signals of runs that nobody has taken, oldest first. Walks the run's part of signals_name_idx.
SELECT
    s.run_key, s.ordinal, s.name, s.event, s.signal_id, s.consumed, s.receive_time, s.chain_key
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT * FROM signals AS o WHERE o.run_key = x.run_key AND NOT o.consumed OFFSET 0) AS s
ORDER BY s.run_key, s.ordinal;

-- name: give_back_signals
-- Keeps signals that were taken by what is taken out of the record: those that stand there, and those that went because
-- they were taken as they came, or with the end of their run. Walks signals_pkey.
INSERT INTO signals (
    run_key, ordinal, name, event, signal_id, consumed, receive_time, chain_key
)
SELECT * FROM unnest(
    $1::bigint[], $2::int[], $3::text[], $4::int[], $5::text[], $6::boolean[], $7::timestamptz[], $8::bigint[]
)
ON CONFLICT (run_key, ordinal) DO UPDATE SET consumed = FALSE;

-- name: delete_signals
-- Forgets the signals of ended runs; their history keeps them. Those with an id stay a day, so that a repeat is
-- recognised. Walks the runs' parts of signals_pkey and signals_name_idx.
WITH gone AS (
    DELETE FROM signals WHERE run_key = ANY($1::bigint[]) AND signal_id IS NULL
)
UPDATE signals SET consumed = TRUE WHERE run_key = ANY($1::bigint[]) AND signal_id IS NOT NULL AND NOT consumed;
