-- name: insert_session
INSERT INTO sessions (
    session_id, namespace_id, worker_id, register_time, hello, expire_time, task_queues, workflow_types,
    activity_types, build_id, identity, owner
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: read_session
-- A condemned one is on its way out: to readers it is gone. Walks sessions_pkey.
SELECT
    s.session_id, s.namespace_id, s.worker_id, s.register_time, s.hello, s.expire_time, s.task_queues,
    s.workflow_types, s.activity_types, s.build_id, s.identity, s.owner
FROM sessions AS s WHERE s.session_id = $1 AND s.expire_time > '-infinity';

-- name: resume_session
-- Prolongs a session, with what its worker now says of itself. Answers it, or nothing: one that is condemned stays so. As
-- a beat may, a resume may be late. $11 is who resumes it: his own, or one of nobody's; null for who may resume any.
-- Walks sessions_pkey.
UPDATE sessions SET
    hello = $3, expire_time = $4, worker_id = $5, task_queues = $6, workflow_types = $7, activity_types = $8,
    build_id = $9, identity = $10
WHERE session_id = $1 AND namespace_id = $2 AND expire_time > '-infinity'
    AND ($11::text IS NULL OR owner IS NULL OR owner = $11)
RETURNING session_id;

-- name: extend_sessions
-- Prolongs sessions; answers those that are there. One update for all of a replica's streams. Walks sessions_pkey.
-- One that is condemned stays so.
UPDATE sessions SET expire_time = greatest(expire_time, $2)
WHERE session_id = ANY($1::uuid[]) AND expire_time > '-infinity'
RETURNING session_id;

-- name: delete_sessions
-- Forgets sessions. Walks sessions_pkey.
DELETE FROM sessions WHERE session_id = ANY($1::uuid[]) RETURNING session_id;

-- name: read_expired_sessions
-- Sessions whose time is over. Takes the locks of tables that beats take: what holds them up holds this up, too. Reads
-- the small table.
WITH no_session AS (
    UPDATE sessions SET expire_time = expire_time WHERE FALSE
),
no_heartbeat AS (
    UPDATE heartbeats SET run_key = run_key WHERE FALSE
)
SELECT session_id, worker_id FROM sessions WHERE expire_time < $1 ORDER BY expire_time LIMIT $2;

-- name: condemn_sessions
-- Makes expiry final: from here on no beat prolongs them. Answers those that were not prolonged meanwhile. Walks
-- sessions_pkey.
UPDATE sessions SET expire_time = '-infinity' WHERE session_id = ANY($1::uuid[]) AND expire_time < $2
RETURNING session_id;

-- name: delete_condemned_sessions
-- Forgets condemned sessions. Walks sessions_pkey.
DELETE FROM sessions WHERE session_id = ANY($1::uuid[]) AND expire_time = '-infinity' RETURNING session_id;

-- name: read_lost_holders
-- Sessions that hold runs, activities or jobs but are not there, as a grant leaves behind that overtook the expiry of
-- its session. Hops over runs_session_idx, steps_session_idx and jobs_session_idx from session to session, then walks
-- sessions_pkey. A driven run has owners without sessions.
WITH RECURSIVE of_runs (session_id) AS (
    (SELECT r.session_id FROM runs AS r WHERE r.session_id IS NOT NULL ORDER BY r.session_id LIMIT 1)
    UNION ALL
    SELECT (SELECT r.session_id FROM runs AS r WHERE r.session_id > x.session_id ORDER BY r.session_id LIMIT 1)
    FROM of_runs AS x
    WHERE x.session_id IS NOT NULL
),
of_steps (session_id) AS (
    (SELECT s.session_id FROM steps AS s WHERE s.session_id IS NOT NULL ORDER BY s.session_id LIMIT 1)
    UNION ALL
    SELECT (SELECT s.session_id FROM steps AS s WHERE s.session_id > x.session_id ORDER BY s.session_id LIMIT 1)
    FROM of_steps AS x
    WHERE x.session_id IS NOT NULL
),
of_jobs (session_id) AS (
    (SELECT j.session_id FROM jobs AS j WHERE j.session_id IS NOT NULL ORDER BY j.session_id LIMIT 1)
    UNION ALL
    SELECT (SELECT j.session_id FROM jobs AS j WHERE j.session_id > x.session_id ORDER BY j.session_id LIMIT 1)
    FROM of_jobs AS x
    WHERE x.session_id IS NOT NULL
)
SELECT h.session_id
FROM (
    SELECT session_id FROM of_runs UNION SELECT session_id FROM of_steps UNION SELECT session_id FROM of_jobs
) AS h
WHERE h.session_id IS NOT NULL AND NOT EXISTS (SELECT FROM sessions AS s WHERE s.session_id = h.session_id)
LIMIT $1;

-- name: read_leases
-- What sessions hold: runs (ordinal 0) and activities of runs that are not driven, and jobs (ordinal -1). Walks
-- runs_session_idx, steps_session_idx, runs_pkey, jobs_session_idx.
(
    SELECT r.run_key, 0 AS ordinal, r.grants, r.session_id, r.namespace_id
    FROM runs AS r
    WHERE r.session_id = ANY($1::uuid[]) AND NOT r.driven
    LIMIT $2
)
UNION ALL
(
    SELECT s.run_key, s.ordinal, s.grants, s.session_id, r.namespace_id
    FROM steps AS s
    INNER JOIN runs AS r ON r.run_key = s.run_key
    WHERE s.session_id = ANY($1::uuid[]) AND NOT r.driven
    LIMIT $2
)
UNION ALL
(
    SELECT j.job_key, -1 AS ordinal, j.grants, j.session_id, j.namespace_id
    FROM jobs AS j
    WHERE j.session_id = ANY($1::uuid[])
    LIMIT $2
);
