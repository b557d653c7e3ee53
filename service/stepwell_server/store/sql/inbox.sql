-- name: read_inbox
-- What programs have asked for and committed, in the order of their numbers. Walks inbox_pkey.
SELECT
    i.number, i.namespace_id, i.namespace, i.verb, i.run_id, i.workflow_id, i.name, i.task_queue, i.priority,
    i.signal_id, i.token, i.payload, i.append_time
FROM inbox AS i
WHERE i.number > $1
ORDER BY i.number
LIMIT $2;

-- name: inbox_left
-- Which of it is not done. Walks inbox_pkey.
SELECT number FROM inbox WHERE number = ANY($1::bigint[]);

-- name: delete_inbox
-- Takes away what is done; answers what was there. Less than asked for is a conflict: somebody else did it. Walks
-- inbox_pkey.
DELETE FROM inbox WHERE number = ANY($1::bigint[]) RETURNING number;

-- name: bury_inbox
-- Puts among the dead letters what can't be done, with the reasons, unless somebody else has dealt with it. Walks
-- inbox_pkey.
WITH gone AS (
    DELETE FROM inbox WHERE number = ANY($1::bigint[]) RETURNING *
)
INSERT INTO dead_letters (
    number, namespace_id, namespace, verb, run_id, workflow_id, name, task_queue, priority, signal_id, token, payload,
    append_time, reason, message, refuse_time
)
SELECT
    g.number, g.namespace_id, g.namespace, g.verb, g.run_id, g.workflow_id, g.name, g.task_queue, g.priority,
    g.signal_id, g.token, g.payload, g.append_time, x.reason, x.message, $4
FROM gone AS g
INNER JOIN unnest($1::bigint[], $2::text[], $3::text[]) AS x (number, reason, message) ON x.number = g.number
RETURNING number;

-- name: prune_dead_letters
-- Forgets, up to a limit, dead letters from before a time. Walks dead_letters_time_idx, then
-- dead_letters_pkey.
DELETE FROM dead_letters
WHERE number IN (SELECT d.number FROM dead_letters AS d WHERE d.refuse_time < $1 ORDER BY d.refuse_time LIMIT $2)
RETURNING number;

-- name: set_inbox_limits
-- Tells the functions what to refuse; answers whether that is new. Walks inbox_limits_pkey.
INSERT INTO inbox_limits AS l (is_only, id_bytes, payload_bytes) VALUES (TRUE, $1, $2)
ON CONFLICT (is_only) DO UPDATE SET id_bytes = excluded.id_bytes, payload_bytes = excluded.payload_bytes
WHERE (l.id_bytes, l.payload_bytes) IS DISTINCT FROM (excluded.id_bytes, excluded.payload_bytes)
RETURNING l.is_only;
