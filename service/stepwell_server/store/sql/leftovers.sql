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
