-- name: take_run_keys
-- A block of 1,000 run keys.
SELECT nextval('run_key_blocks') AS block;

-- name: find_run_ids
-- Runs by their ids, with the namespace given or (null) in any. Walks run_ids_pkey.
SELECT x.place, r.run_id, r.namespace_id, r.run_key, r.request_hash
FROM unnest($1::uuid[], $2::int[]) WITH ORDINALITY AS x (run_id, namespace_id, place),
    LATERAL (
        SELECT i.run_id, i.namespace_id, i.run_key, i.request_hash
        FROM run_ids AS i
        WHERE i.run_id = x.run_id AND (x.namespace_id IS NULL OR i.namespace_id = x.namespace_id)
        LIMIT 2
        OFFSET 0
    ) AS r;

-- name: find_workflow_ids
-- The latest run of each workflow id, with the namespace given or (null) in any, and its phase. Walks
-- workflow_ids_pkey, then runs_pkey or the one partition of closed_runs.
SELECT x.place, w.workflow_id, w.namespace_id, w.run_key, w.turn,
    coalesce(o.run_id, c.run_id) AS run_id, coalesce(o.phase, c.phase) AS phase
FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS x (workflow_id, namespace_id, place)
CROSS JOIN LATERAL (
    SELECT i.workflow_id, i.namespace_id, i.run_key, i.turn
    FROM workflow_ids AS i
    WHERE i.workflow_id = x.workflow_id AND (x.namespace_id IS NULL OR i.namespace_id = x.namespace_id)
    LIMIT 2
    OFFSET 0
) AS w
LEFT JOIN LATERAL (SELECT r.run_id, r.phase FROM runs AS r WHERE r.run_key = w.run_key OFFSET 0) AS o ON TRUE
LEFT JOIN LATERAL (
    SELECT r.run_id, r.phase FROM closed_runs AS r WHERE o.run_id IS NULL AND r.run_key = w.run_key OFFSET 0
) AS c ON TRUE;

-- name: lock_runs
-- Open runs by key, locked for the batch in the order of the keys given; one that is locked elsewhere does not come
-- back. Walks runs_pkey. The row's lock covers all that is open of the run.
SELECT
    r.run_key, r.namespace_id, r.run_id, r.workflow_id, r.type, r.task_queue, r.priority, r.driven,
    r.managed, r.parent_key, r.parent_ordinal, r.correlation_id, r.traceparent, r.tracestate,
    r.create_time, r.deadline, r.phase, r.version, r.last_event, r.last_step, r.last_signal, r.open_steps,
    r.order_count, r.order_hash, r.grants, r.session_id, r.returns, r.queued, r.dirty, r.owner_id,
    r.lease_expire_time, r.pause_reason, r.cancel_reason, r.cancel_time, r.build_id, r.update_time,
    r.suspend_time, r.wake_time, r.details
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT * FROM runs AS o WHERE o.run_key = x.run_key OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) AS r;

-- name: await_runs
-- Locks open runs in the order of the keys given, and waits for each. Only who holds nothing else may ask. Walks
-- runs_pkey.
SELECT r.run_key
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT o.run_key FROM runs AS o WHERE o.run_key = x.run_key OFFSET 0 FOR NO KEY UPDATE) AS r;

-- name: read_runs
-- Open runs by key, not locked. Walks runs_pkey.
SELECT
    r.run_key, r.namespace_id, r.run_id, r.workflow_id, r.type, r.task_queue, r.priority, r.driven,
    r.managed, r.parent_key, r.parent_ordinal, r.correlation_id, r.traceparent, r.tracestate,
    r.create_time, r.deadline, r.phase, r.version, r.last_event, r.last_step, r.last_signal, r.open_steps,
    r.order_count, r.order_hash, r.grants, r.session_id, r.returns, r.queued, r.dirty, r.owner_id,
    r.lease_expire_time, r.pause_reason, r.cancel_reason, r.cancel_time, r.build_id, r.update_time,
    r.suspend_time, r.wake_time, r.details
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT * FROM runs AS o WHERE o.run_key = x.run_key OFFSET 0) AS r;

-- name: read_closed_runs
-- Ended runs by key. Walks the primary key of one partition a run.
SELECT
    r.run_key, r.namespace_id, r.run_id, r.workflow_id, r.type, r.task_queue, r.priority, r.driven,
    r.managed, r.parent_key, r.parent_ordinal, r.correlation_id, r.traceparent, r.tracestate,
    r.create_time, r.deadline, r.phase, r.version, r.last_event, r.last_step, r.last_signal,
    r.order_count, r.order_hash, r.grants, r.cancel_reason, r.cancel_time, r.build_id, r.end_time,
    r.end_event, r.details
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT * FROM closed_runs AS o WHERE o.run_key = x.run_key OFFSET 0) AS r;

-- name: insert_run_ids
-- Makes ids known; a second one of the same namespace is a conflict. Sorted by id.
COPY run_ids (run_id, namespace_id, run_key, request_hash) FROM STDIN (FORMAT binary);

-- name: insert_workflow_ids
-- Gives names that were free to their first runs; one taken meanwhile is a conflict. Sorted by name.
COPY workflow_ids (workflow_id, namespace_id, run_key) FROM STDIN (FORMAT binary);

-- name: update_workflow_ids
-- Gives names to runs that open, if nobody has got them since they were looked at: a smaller count is a conflict. The
-- turn tells that also of a run that was opened again under the name which it had. Walks workflow_ids_pkey.
UPDATE workflow_ids SET run_key = x.run_key, turn = x.turn + 1
FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[]) AS x (workflow_id, namespace_id, turn, run_key)
WHERE workflow_ids.workflow_id = x.workflow_id AND workflow_ids.namespace_id = x.namespace_id
    AND workflow_ids.turn = x.turn;

-- name: insert_runs
COPY runs (
    run_key, namespace_id, run_id, workflow_id, type, task_queue, priority, driven, managed, parent_key,
    parent_ordinal, correlation_id, traceparent, tracestate, create_time, deadline, phase, version, last_event,
    last_step, last_signal, open_steps, order_count, order_hash, grants, session_id, returns, queued, dirty, owner_id,
    lease_expire_time, pause_reason, cancel_reason, cancel_time, build_id, update_time, suspend_time, wake_time,
    details
) FROM STDIN (FORMAT binary);

-- name: update_runs
-- Writes what changes of open runs, if they are in the versions that were decided on: a smaller count is a conflict,
-- somebody else was first. Walks runs_pkey.
UPDATE runs SET
    phase = x.phase, version = x.version, last_event = x.last_event, last_step = x.last_step,
    last_signal = x.last_signal, open_steps = x.open_steps, order_count = x.order_count,
    order_hash = x.order_hash, grants = x.grants, session_id = x.session_id, returns = x.returns,
    queued = x.queued, dirty = x.dirty, owner_id = x.owner_id, lease_expire_time = x.lease_expire_time,
    pause_reason = x.pause_reason, cancel_reason = x.cancel_reason, cancel_time = x.cancel_time,
    build_id = x.build_id, update_time = x.update_time, suspend_time = x.suspend_time,
    wake_time = x.wake_time, details = x.details
FROM unnest(
    $1::bigint[], $2::bigint[], $3::smallint[], $4::bigint[], $5::int[], $6::int[], $7::int[], $8::int[], $9::int[],
    $10::bytea[], $11::bigint[], $12::uuid[], $13::smallint[], $14::boolean[], $15::boolean[], $16::text[],
    $17::timestamptz[], $18::text[], $19::text[], $20::timestamptz[], $21::text[], $22::timestamptz[],
    $23::timestamptz[], $24::timestamptz[], $25::bytea[]
) AS x (
    run_key, found, phase, version, last_event, last_step, last_signal, open_steps, order_count, order_hash, grants,
    session_id, returns, queued, dirty, owner_id, lease_expire_time, pause_reason, cancel_reason, cancel_time,
    build_id, update_time, suspend_time, wake_time, details
)
WHERE runs.run_key = x.run_key AND runs.version = x.found;

-- name: delete_runs
-- Takes ended runs out of the open ones, in the versions that were decided on: a smaller count is a conflict. Walks
-- runs_pkey.
DELETE FROM runs USING unnest($1::bigint[], $2::bigint[]) AS x (run_key, found)
WHERE runs.run_key = x.run_key AND runs.version = x.found;

-- name: delete_closed_runs
-- Takes runs that are opened again out of the closed ones, in the versions that were looked at: a smaller count is a
-- conflict, somebody else was first. Each names its key, so that only one partition is looked at: walks its primary key.
DELETE FROM closed_runs
WHERE run_key = ANY($1::bigint[]) AND EXISTS (
    SELECT FROM unnest($1::bigint[], $2::bigint[]) AS x (run_key, version)
    WHERE x.run_key = closed_runs.run_key AND x.version = closed_runs.version
);

-- name: insert_closed_runs
COPY closed_runs (
    run_key, namespace_id, run_id, workflow_id, type, task_queue, priority, driven, managed, parent_key,
    parent_ordinal, correlation_id, traceparent, tracestate, create_time, deadline, phase, version, last_event,
    last_step, last_signal, order_count, order_hash, grants, cancel_reason, cancel_time, build_id, end_time,
    end_event, details
) FROM STDIN (FORMAT binary);

-- name: read_due_runs
-- Runs that want to be looked at, earliest first. Walks runs_managed_wake_idx. Locks nothing: the decision looks again.
SELECT run_key, namespace_id, wake_time FROM runs WHERE wake_time <= $1 AND managed ORDER BY wake_time LIMIT $2;

-- name: read_runs_of_sessions
-- Runs that sessions hold. Walks runs_session_idx.
SELECT run_key, namespace_id, grants, session_id FROM runs WHERE session_id = ANY($1::uuid[]) LIMIT $2;
