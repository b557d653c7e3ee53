-- name: read_steps
-- Open steps of runs by ordinal. Walks steps_pkey.
SELECT
    s.run_key, s.ordinal, s.scope, s.name, s.occurrence, s.key, s.kind, s.type, s.task_queue, s.priority,
    s.wait_name, s.seq, s.child_key, s.create_time, s.input_event, s.state, s.attempt, s.grants,
    s.session_id, s.returns, s.owner_id, s.start_time, s.wake_time, s.cancel_requested, s.details,
    s.managed
FROM unnest($1::bigint[], $2::int[]) AS x (run_key, ordinal),
    LATERAL (SELECT * FROM steps AS o WHERE o.run_key = x.run_key AND o.ordinal = x.ordinal OFFSET 0) AS s;

-- name: read_steps_named
-- Open steps by their identity in the run. Walks steps_identity_idx, which wants to hear that ordinals are positive.
SELECT
    s.run_key, s.ordinal, s.scope, s.name, s.occurrence, s.key, s.kind, s.type, s.task_queue, s.priority,
    s.wait_name, s.seq, s.child_key, s.create_time, s.input_event, s.state, s.attempt, s.grants,
    s.session_id, s.returns, s.owner_id, s.start_time, s.wake_time, s.cancel_requested, s.details,
    s.managed
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::text[])
    AS x (run_key, scope, name, occurrence, key),
    LATERAL (
        SELECT * FROM steps AS o
        WHERE o.run_key = x.run_key AND o.scope = x.scope AND o.name = x.name
            AND o.occurrence = x.occurrence AND o.key = x.key AND o.ordinal > 0
        OFFSET 0
    ) AS s;

-- name: read_steps_waiting
-- Open steps that wait for a name. Walks steps_wait_idx.
SELECT
    s.run_key, s.ordinal, s.scope, s.name, s.occurrence, s.key, s.kind, s.type, s.task_queue, s.priority,
    s.wait_name, s.seq, s.child_key, s.create_time, s.input_event, s.state, s.attempt, s.grants,
    s.session_id, s.returns, s.owner_id, s.start_time, s.wake_time, s.cancel_requested, s.details,
    s.managed
FROM unnest($1::bigint[], $2::text[]) AS x (run_key, wait_name),
    LATERAL (SELECT * FROM steps AS o WHERE o.run_key = x.run_key AND o.wait_name = x.wait_name OFFSET 0) AS s;

-- name: read_open_steps
-- All open steps of runs. Walks steps_pkey; bounded by the limit of open steps a run.
SELECT
    s.run_key, s.ordinal, s.scope, s.name, s.occurrence, s.key, s.kind, s.type, s.task_queue, s.priority,
    s.wait_name, s.seq, s.child_key, s.create_time, s.input_event, s.state, s.attempt, s.grants,
    s.session_id, s.returns, s.owner_id, s.start_time, s.wake_time, s.cancel_requested, s.details,
    s.managed
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT * FROM steps AS o WHERE o.run_key = x.run_key OFFSET 0) AS s
ORDER BY s.run_key, s.ordinal;

-- name: read_closed_steps
-- Ended steps by ordinal. Walks the run's part of one partition's primary key.
SELECT
    s.run_key, s.ordinal, s.scope, s.name, s.occurrence, s.key, s.kind, s.type, s.task_queue, s.priority,
    s.wait_name, s.seq, s.child_key, s.create_time, s.input_event, s.state, s.attempt, s.grants,
    s.start_time, s.end_time, s.end_event, s.timed_out, s.details
FROM unnest($1::bigint[], $2::int[]) AS x (run_key, ordinal),
    LATERAL (SELECT * FROM closed_steps AS o WHERE o.run_key = x.run_key AND o.ordinal = x.ordinal OFFSET 0) AS s;

-- name: read_closed_steps_named
-- Ended steps by their identity in the run. Walks one partition's primary key.
SELECT
    s.run_key, s.ordinal, s.scope, s.name, s.occurrence, s.key, s.kind, s.type, s.task_queue, s.priority,
    s.wait_name, s.seq, s.child_key, s.create_time, s.input_event, s.state, s.attempt, s.grants,
    s.start_time, s.end_time, s.end_event, s.timed_out, s.details
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::text[])
    AS x (run_key, scope, name, occurrence, key),
    LATERAL (
        SELECT * FROM closed_steps AS o
        WHERE o.run_key = x.run_key AND o.scope = x.scope AND o.name = x.name
            AND o.occurrence = x.occurrence AND o.key = x.key
        OFFSET 0
    ) AS s;

-- name: read_all_closed_steps
-- All ended steps of runs; as many as their histories have room for. Walks the run's part of one partition's primary key.
SELECT
    s.run_key, s.ordinal, s.scope, s.name, s.occurrence, s.key, s.kind, s.type, s.task_queue, s.priority,
    s.wait_name, s.seq, s.child_key, s.create_time, s.input_event, s.state, s.attempt, s.grants,
    s.start_time, s.end_time, s.end_event, s.timed_out, s.details
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT * FROM closed_steps AS o WHERE o.run_key = x.run_key OFFSET 0) AS s;

-- name: page_steps
-- Open steps of one run after an ordinal. Walks steps_pkey.
SELECT
    s.run_key, s.ordinal, s.scope, s.name, s.occurrence, s.key, s.kind, s.type, s.task_queue, s.priority,
    s.wait_name, s.seq, s.child_key, s.create_time, s.input_event, s.state, s.attempt, s.grants,
    s.session_id, s.returns, s.owner_id, s.start_time, s.wake_time, s.cancel_requested, s.details,
    s.managed
FROM steps AS s
WHERE s.run_key = $1 AND s.ordinal > $2
ORDER BY s.ordinal
LIMIT $3;

-- name: page_closed_steps
-- Ended steps of one run after an ordinal. Walks the run's part of one partition's primary key.
SELECT
    s.run_key, s.ordinal, s.scope, s.name, s.occurrence, s.key, s.kind, s.type, s.task_queue, s.priority,
    s.wait_name, s.seq, s.child_key, s.create_time, s.input_event, s.state, s.attempt, s.grants,
    s.start_time, s.end_time, s.end_event, s.timed_out, s.details
FROM closed_steps AS s
WHERE s.run_key = $1 AND s.ordinal > $2
ORDER BY s.ordinal
LIMIT $3;

-- name: closed_steps_since
-- Steps of one run that ended after an event, in the order of their ends. Walks the run's part of one partition's primary key.
SELECT
    s.run_key, s.ordinal, s.scope, s.name, s.occurrence, s.key, s.kind, s.type, s.task_queue, s.priority,
    s.wait_name, s.seq, s.child_key, s.create_time, s.input_event, s.state, s.attempt, s.grants,
    s.start_time, s.end_time, s.end_event, s.timed_out, s.details
FROM closed_steps AS s
WHERE s.run_key = $1 AND s.end_event > $2
ORDER BY s.end_event
LIMIT 100000;

-- name: insert_steps
COPY steps (
    run_key, ordinal, scope, name, occurrence, key, kind, type, task_queue, priority, wait_name, seq, child_key,
    create_time, input_event, state, attempt, grants, session_id, returns, owner_id, start_time, wake_time,
    cancel_requested, details, managed
) FROM STDIN (FORMAT binary);

-- name: update_steps
-- Writes what changes of open steps, whose runs this batch has locked. Walks steps_pkey.
UPDATE steps SET
    state = x.state, attempt = x.attempt, grants = x.grants, session_id = x.session_id, returns = x.returns,
    owner_id = x.owner_id, start_time = x.start_time, wake_time = x.wake_time,
    cancel_requested = x.cancel_requested, details = x.details
FROM unnest(
    $1::bigint[], $2::int[], $3::smallint[], $4::int[], $5::bigint[], $6::uuid[], $7::smallint[], $8::text[],
    $9::timestamptz[], $10::timestamptz[], $11::boolean[], $12::bytea[]
) AS x (
    run_key, ordinal, state, attempt, grants, session_id, returns, owner_id, start_time, wake_time,
    cancel_requested, details
)
WHERE steps.run_key = x.run_key AND steps.ordinal = x.ordinal;

-- name: delete_steps
-- Takes ended steps out of the open ones. Walks steps_pkey.
DELETE FROM steps USING unnest($1::bigint[], $2::int[]) AS x (run_key, ordinal)
WHERE steps.run_key = x.run_key AND steps.ordinal = x.ordinal;

-- name: insert_closed_steps
COPY closed_steps (
    run_key, ordinal, scope, name, occurrence, key, kind, type, task_queue, priority, wait_name, seq, child_key,
    create_time, input_event, state, attempt, grants, start_time, end_time, end_event, timed_out, details
) FROM STDIN (FORMAT binary);

-- name: delete_closed_steps
-- Takes steps out of the record that are rewound, begun anew or saved again. Each names its run, so that only one
-- partition is looked at: walks its primary key.
DELETE FROM closed_steps USING unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::text[])
    AS x (run_key, scope, name, occurrence, key)
WHERE closed_steps.run_key = x.run_key AND closed_steps.scope = x.scope AND closed_steps.name = x.name
    AND closed_steps.occurrence = x.occurrence AND closed_steps.key = x.key;

-- name: read_due_steps
-- Steps that fire, try again or may have timed out, earliest first. Walks steps_managed_wake_idx, then runs_pkey, which
-- has the last word on who moves the run. Locks nothing: the decision looks again.
SELECT s.run_key, s.ordinal, r.namespace_id, s.wake_time
FROM steps AS s
INNER JOIN runs AS r ON r.run_key = s.run_key
WHERE s.wake_time <= $1 AND s.managed AND r.managed
ORDER BY s.wake_time
LIMIT $2;

-- name: read_steps_of_sessions
-- Activities that sessions hold. Walks steps_session_idx, then runs_pkey.
SELECT s.run_key, s.ordinal, s.grants, s.session_id, r.namespace_id
FROM steps AS s
INNER JOIN runs AS r ON r.run_key = s.run_key
WHERE s.session_id = ANY($1::uuid[])
LIMIT $2;

-- name: read_heartbeats
-- The latest heartbeats of activities. Walks heartbeats_pkey.
SELECT h.run_key, h.ordinal, h.beat_time, h.details
FROM unnest($1::bigint[], $2::int[]) AS x (run_key, ordinal),
    LATERAL (SELECT * FROM heartbeats AS o WHERE o.run_key = x.run_key AND o.ordinal = x.ordinal OFFSET 0) AS h;

-- name: write_heartbeats
-- Notes heartbeats of activities that their sessions still hold; answers which, whether they should stop, and which
-- attempt that is. Sorted by key. Walks steps_pkey and heartbeats_pkey.
WITH held AS (
    SELECT x.run_key, x.ordinal, x.beat_time, x.details, s.attempt, s.cancel_requested
    FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::uuid[], $5::timestamptz[], $6::bytea[])
        AS x (run_key, ordinal, token, session_id, beat_time, details)
    CROSS JOIN LATERAL (
        SELECT o.cancel_requested, o.attempt, o.grants, o.session_id FROM steps AS o
        WHERE o.run_key = x.run_key AND o.ordinal = x.ordinal
        OFFSET 0
    ) AS s
    WHERE s.grants = x.token AND s.session_id = x.session_id
),
written AS (
    INSERT INTO heartbeats (run_key, ordinal, beat_time, details)
    SELECT run_key, ordinal, beat_time, details FROM held ORDER BY run_key, ordinal
    ON CONFLICT (run_key, ordinal) DO UPDATE SET
        beat_time = excluded.beat_time,
        details = coalesce(excluded.details, heartbeats.details)
)
SELECT run_key, ordinal, cancel_requested, attempt FROM held;

-- name: read_scopes
-- Branches of runs by path. Walks scopes_pkey.
SELECT s.run_key, s.scope, s.order_count, s.order_hash
FROM unnest($1::bigint[], $2::text[]) AS x (run_key, scope),
    LATERAL (SELECT * FROM scopes AS o WHERE o.run_key = x.run_key AND o.scope = x.scope OFFSET 0) AS s;

-- name: write_scopes
-- Notes how many calls branches have recorded. Walks scopes_pkey.
INSERT INTO scopes (
    run_key, scope, order_count, order_hash
)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::int[], $4::bytea[]
)
ON CONFLICT (run_key, scope) DO UPDATE SET order_count = excluded.order_count, order_hash = excluded.order_hash;

-- name: delete_scopes
-- Forgets the branches of ended runs. Walks scopes_pkey.
DELETE FROM scopes WHERE run_key = ANY($1::bigint[]);
