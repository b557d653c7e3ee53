-- name: next_heartbeats
-- The key at which a slice of heartbeats ends. Walks heartbeats_pkey.
SELECT x.run_key, x.ordinal
FROM (
    SELECT h.run_key, h.ordinal
    FROM heartbeats AS h
    WHERE (h.run_key, h.ordinal) > ($1, $2)
    ORDER BY h.run_key, h.ordinal
    LIMIT $3
) AS x
ORDER BY x.run_key DESC, x.ordinal DESC
LIMIT 1;

-- name: prune_heartbeats
-- Forgets, in a slice, heartbeats of activities and jobs that are not open any more. Walks heartbeats_pkey, then
-- steps_pkey and jobs_pkey.
DELETE FROM heartbeats AS h
WHERE (h.run_key, h.ordinal) > ($1, $2) AND (h.run_key, h.ordinal) <= ($3, $4)
    AND NOT EXISTS (SELECT FROM steps AS s WHERE s.run_key = h.run_key AND s.ordinal = h.ordinal)
    AND NOT EXISTS (SELECT FROM jobs AS j WHERE j.job_key = h.run_key AND h.ordinal < 0)
RETURNING h.run_key;

-- name: next_published
-- The key at which a slice of published values ends. Walks published_pkey.
SELECT x.run_key, x.name
FROM (
    SELECT p.run_key, p.name
    FROM published AS p
    WHERE (p.run_key, p.name) > ($1, $2)
    ORDER BY p.run_key, p.name
    LIMIT $3
) AS x
ORDER BY x.run_key DESC, x.name DESC
LIMIT 1;

-- name: prune_published
-- Forgets, in a slice, what runs have published that are there no more, open or ended. Walks published_pkey, then
-- runs_pkey and the primary key of one partition of closed_runs.
DELETE FROM published AS p
WHERE (p.run_key, p.name) > ($1, $2) AND (p.run_key, p.name) <= ($3, $4)
    AND NOT EXISTS (SELECT FROM runs AS r WHERE r.run_key = p.run_key)
    AND NOT EXISTS (SELECT FROM closed_runs AS c WHERE c.run_key = p.run_key)
RETURNING p.run_key;

-- name: prune_signals
-- Forgets signals that ended runs got long ago, whose ids need not be recognised any more. What is not consumed is on
-- its way to another run. Walks signals_pkey from the oldest run, then runs_pkey.
DELETE FROM signals AS s
USING (
    SELECT o.run_key, o.ordinal
    FROM signals AS o
    WHERE o.receive_time < $1 AND o.consumed AND NOT EXISTS (SELECT FROM runs AS r WHERE r.run_key = o.run_key)
    ORDER BY o.run_key, o.ordinal
    LIMIT $2
) AS x
WHERE s.run_key = x.run_key AND s.ordinal = x.ordinal
RETURNING s.run_key;

-- name: prune_run_calls
-- Forgets calls for which nobody waits any more. Walks run_calls_expire_idx, then run_calls_pkey.
DELETE FROM run_calls WHERE call_id IN (
    SELECT c.call_id FROM run_calls AS c WHERE c.expire_time < $1 ORDER BY c.expire_time LIMIT $2
) RETURNING call_id;

-- name: prune_requests
-- Forgets what requests were answered long ago. Walks requests_time_idx, then requests_pkey.
DELETE FROM requests AS r
USING (
    SELECT o.request_id, o.namespace_id, o.method
    FROM requests AS o
    WHERE o.request_time < $1
    ORDER BY o.request_time
    LIMIT $2
) AS x
WHERE r.request_id = x.request_id AND r.namespace_id = x.namespace_id AND r.method = x.method
RETURNING r.request_id;

-- name: next_dispatches
-- The key at which a slice of dispatches ends. Walks dispatches_pkey.
SELECT x.run_id, x.namespace_id, x.step_name
FROM (
    SELECT d.run_id, d.namespace_id, d.step_name
    FROM dispatches AS d
    WHERE (d.run_id, d.namespace_id, d.step_name) > ($1, $2, $3)
    ORDER BY d.run_id, d.namespace_id, d.step_name
    LIMIT $4
) AS x
ORDER BY x.run_id DESC, x.namespace_id DESC, x.step_name DESC
LIMIT 1;

-- name: prune_dispatches
-- Forgets, in a slice, dispatches of runs that there are not, for longer than their namespace keeps runs. Walks
-- dispatches_pkey, then namespaces_pkey and run_ids_pkey.
DELETE FROM dispatches AS d
USING namespaces AS n
WHERE (d.run_id, d.namespace_id, d.step_name) > ($1, $2, $3) AND (d.run_id, d.namespace_id, d.step_name) <= ($4, $5, $6)
    AND n.namespace_id = d.namespace_id AND d.dispatch_time < $7::timestamptz - make_interval(secs => n.retention_seconds)
    AND NOT EXISTS (SELECT FROM run_ids AS i WHERE i.run_id = d.run_id AND i.namespace_id = d.namespace_id)
RETURNING d.run_id;

-- name: next_idempotency_keys
-- The key at which a slice of idempotency keys ends. Walks idempotency_keys_pkey.
SELECT x.idempotency_key, x.namespace_id, x.type, x.trigger_key
FROM (
    SELECT k.idempotency_key, k.namespace_id, k.type, k.trigger_key
    FROM idempotency_keys AS k
    WHERE (k.idempotency_key, k.namespace_id, k.type, k.trigger_key) > ($1, $2, $3, $4)
    ORDER BY k.idempotency_key, k.namespace_id, k.type, k.trigger_key
    LIMIT $5
) AS x
ORDER BY x.idempotency_key DESC, x.namespace_id DESC, x.type DESC, x.trigger_key DESC
LIMIT 1;

-- name: prune_idempotency_keys
-- Forgets, in a slice, keys of runs that there are not, for longer than their namespace keeps runs. Walks
-- idempotency_keys_pkey, then namespaces_pkey and run_ids_pkey.
DELETE FROM idempotency_keys AS k
USING namespaces AS n
WHERE (k.idempotency_key, k.namespace_id, k.type, k.trigger_key) > ($1, $2, $3, $4)
    AND (k.idempotency_key, k.namespace_id, k.type, k.trigger_key) <= ($5, $6, $7, $8)
    AND n.namespace_id = k.namespace_id AND k.register_time < $9::timestamptz - make_interval(secs => n.retention_seconds)
    AND NOT EXISTS (SELECT FROM run_ids AS i WHERE i.run_id = k.run_id AND i.namespace_id = k.namespace_id)
RETURNING k.run_id;
