-- name: insert_events
COPY events (
    run_key, number, type, origin, step_ordinal, event_time, payload_kind, payload, caller_type, caller_seq,
    attributes
) FROM STDIN (FORMAT binary);

-- name: read_events
-- Single events. Walks one partition's primary key each.
SELECT
    e.run_key, e.number, e.type, e.origin, e.step_ordinal, e.event_time, e.payload_kind, e.payload,
    e.caller_type, e.caller_seq, e.attributes
FROM unnest($1::bigint[], $2::int[]) AS x (run_key, number),
    LATERAL (SELECT * FROM events AS o WHERE o.run_key = x.run_key AND o.number = x.number OFFSET 0) AS e;

-- name: copy_events
-- Appends to histories what events of other runs say. Walks the primary key of one partition an event.
INSERT INTO events (
    run_key, number, type, origin, step_ordinal, event_time, payload_kind, payload, caller_type, caller_seq, attributes
)
SELECT
    x.run_key, x.number, e.type, e.origin, 0, x.event_time, e.payload_kind, e.payload, e.caller_type, e.caller_seq,
    e.attributes
FROM unnest($1::bigint[], $2::int[], $3::timestamptz[], $4::bigint[], $5::int[])
    AS x (run_key, number, event_time, from_key, from_number),
    LATERAL (SELECT * FROM events AS o WHERE o.run_key = x.from_key AND o.number = x.from_number OFFSET 0) AS e;

-- name: read_received_signals
-- Which signals and events of topics came to runs, and when. Walks the run's part of one partition's primary key.
SELECT e.run_key, e.number, e.attributes, e.event_time
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (
        SELECT o.run_key, o.number, o.event_time, o.attributes FROM events AS o
        WHERE o.run_key = x.run_key AND o.type = ANY($2::smallint[])
        OFFSET 0
    ) AS e
ORDER BY e.run_key, e.number;
