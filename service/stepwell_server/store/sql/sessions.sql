-- name: insert_session
INSERT INTO sessions (session_id, namespace_id, worker_id, register_time, hello, expire_time)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: read_session
SELECT
    s.session_id, s.namespace_id, s.worker_id, s.register_time, s.hello, s.expire_time
FROM sessions AS s WHERE s.session_id = $1;

-- name: resume_session
-- Prolongs a session that has not expired, with what its worker now says of itself. Answers it, or nothing.
UPDATE sessions SET hello = $3, expire_time = $4 WHERE session_id = $1 AND namespace_id = $2 AND expire_time > $5
RETURNING session_id;

-- name: extend_sessions
-- Prolongs sessions; answers those that are there. One update for all of a replica's streams. Walks sessions_pkey.
UPDATE sessions SET expire_time = greatest(expire_time, $2) WHERE session_id = ANY($1::uuid[]) RETURNING session_id;

-- name: delete_sessions
-- Forgets sessions. Walks sessions_pkey.
DELETE FROM sessions WHERE session_id = ANY($1::uuid[]) RETURNING session_id;

-- name: read_expired_sessions
-- Sessions whose time is over. Reads the small table.
SELECT session_id, worker_id FROM sessions WHERE expire_time < $1 ORDER BY expire_time LIMIT $2;

-- name: page_sessions
-- Live workers of a namespace in the order of registration.
SELECT
    s.session_id, s.namespace_id, s.worker_id, s.register_time, s.hello, s.expire_time
FROM sessions AS s
WHERE s.namespace_id = $1 AND (s.register_time, s.session_id) > ($2, $3) AND s.expire_time > $4
ORDER BY s.register_time, s.session_id
LIMIT $5;
