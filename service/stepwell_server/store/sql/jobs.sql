-- name: find_job_ids
-- Jobs by their ids. Walks job_ids_pkey.
SELECT x.place, i.job_id, i.namespace_id, i.job_key, i.request_hash
FROM unnest($1::uuid[], $2::int[]) WITH ORDINALITY AS x (job_id, namespace_id, place),
    LATERAL (
        SELECT * FROM job_ids AS o WHERE o.job_id = x.job_id AND o.namespace_id = x.namespace_id OFFSET 0
    ) AS i;

-- name: find_unique_jobs
-- The latest job of each unique key, and its state; both are NULL where there is no more of it than its key. Walks
-- unique_jobs_pkey, then jobs_pkey or the one partition of closed_jobs.
SELECT x.place, u.job_key, u.turn, coalesce(o.job_id, c.job_id) AS job_id, coalesce(o.state, c.state) AS state
FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS x (unique_key, namespace_id, place)
CROSS JOIN LATERAL (
    SELECT i.job_key, i.turn FROM unique_jobs AS i
    WHERE i.unique_key = x.unique_key AND i.namespace_id = x.namespace_id
    OFFSET 0
) AS u
LEFT JOIN LATERAL (SELECT j.job_id, j.state FROM jobs AS j WHERE j.job_key = u.job_key OFFSET 0) AS o ON TRUE
LEFT JOIN LATERAL (
    SELECT j.job_id, j.state FROM closed_jobs AS j WHERE o.job_id IS NULL AND j.job_key = u.job_key OFFSET 0
) AS c ON TRUE;

-- name: lock_jobs
-- Open jobs by key, locked for the batch in the order of the keys given; one that is locked elsewhere does not come
-- back. Walks jobs_pkey.
SELECT
    j.job_key, j.namespace_id, j.job_id, j.unique_key, j.type, j.task_queue, j.priority, j.correlation_id,
    j.traceparent, j.tracestate, j.create_time, j.retention_seconds, j.schedule_time, j.state, j.attempt, j.grants,
    j.session_id, j.returns, j.owner_id, j.start_time, j.wake_time, j.cancel_reason, j.cancel_time, j.retries, j.details
FROM unnest($1::bigint[]) AS x (job_key),
    LATERAL (SELECT * FROM jobs AS o WHERE o.job_key = x.job_key OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) AS j;

-- name: read_jobs
-- Open jobs by key, not locked. Walks jobs_pkey.
SELECT
    j.job_key, j.namespace_id, j.job_id, j.unique_key, j.type, j.task_queue, j.priority, j.correlation_id,
    j.traceparent, j.tracestate, j.create_time, j.retention_seconds, j.schedule_time, j.state, j.attempt, j.grants,
    j.session_id, j.returns, j.owner_id, j.start_time, j.wake_time, j.cancel_reason, j.cancel_time, j.retries, j.details
FROM unnest($1::bigint[]) AS x (job_key),
    LATERAL (SELECT * FROM jobs AS o WHERE o.job_key = x.job_key OFFSET 0) AS j;

-- name: read_closed_jobs
-- Ended jobs by key, without their results. Walks the primary key of one partition a job.
SELECT
    j.job_key, j.namespace_id, j.job_id, j.unique_key, j.type, j.task_queue, j.priority, j.correlation_id,
    j.traceparent, j.tracestate, j.create_time, j.retention_seconds, j.schedule_time, j.state, j.attempt, j.grants,
    j.start_time, j.cancel_reason, j.cancel_time, j.retries, j.details, j.end_time, j.expire_time, j.failure, j.owner_id
FROM unnest($1::bigint[]) AS x (job_key),
    LATERAL (SELECT * FROM closed_jobs AS o WHERE o.job_key = x.job_key OFFSET 0) AS j;

-- name: read_job_inputs
-- What jobs were given; one without an input is missing. Walks the primary key of one partition a job.
SELECT i.job_key, i.input
FROM unnest($1::bigint[]) AS x (job_key),
    LATERAL (SELECT * FROM job_inputs AS o WHERE o.job_key = x.job_key OFFSET 0) AS i;

-- name: insert_job_ids
-- Makes ids known; a second one of the same namespace is a conflict. Sorted by id.
COPY job_ids (job_id, namespace_id, job_key, request_hash) FROM STDIN (FORMAT binary);

-- name: insert_unique_jobs
-- Gives unique keys that were free to their first jobs; one taken meanwhile is a conflict. Sorted by unique key.
COPY unique_jobs (unique_key, namespace_id, job_key) FROM STDIN (FORMAT binary);

-- name: update_unique_jobs
-- Gives unique keys to jobs that open, if nobody has got them since they were looked at: a smaller count is a conflict.
-- The turn tells that also of a job that was retried under the key which it had. Walks unique_jobs_pkey.
UPDATE unique_jobs SET job_key = x.job_key, turn = x.turn + 1
FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[]) AS x (unique_key, namespace_id, turn, job_key)
WHERE unique_jobs.unique_key = x.unique_key AND unique_jobs.namespace_id = x.namespace_id
    AND unique_jobs.turn = x.turn;

-- name: insert_jobs
COPY jobs (
    job_key, namespace_id, job_id, unique_key, type, task_queue, priority, correlation_id, traceparent, tracestate,
    create_time, retention_seconds, schedule_time, state, attempt, grants, session_id, returns, owner_id, start_time,
    wake_time, cancel_reason, cancel_time, retries, details
) FROM STDIN (FORMAT binary);

-- name: insert_job_inputs
COPY job_inputs (job_key, input) FROM STDIN (FORMAT binary);

-- name: update_jobs
-- Writes what changes of open jobs that this batch has locked. Walks jobs_pkey.
UPDATE jobs SET
    schedule_time = x.schedule_time, state = x.state, attempt = x.attempt, grants = x.grants,
    session_id = x.session_id, returns = x.returns, owner_id = x.owner_id, start_time = x.start_time,
    wake_time = x.wake_time, cancel_reason = x.cancel_reason, cancel_time = x.cancel_time, retries = x.retries,
    details = x.details
FROM unnest(
    $1::bigint[], $2::timestamptz[], $3::smallint[], $4::int[], $5::bigint[], $6::uuid[], $7::smallint[], $8::text[],
    $9::timestamptz[], $10::timestamptz[], $11::text[], $12::timestamptz[], $13::int[], $14::bytea[]
) AS x (
    job_key, schedule_time, state, attempt, grants, session_id, returns, owner_id, start_time, wake_time,
    cancel_reason, cancel_time, retries, details
)
WHERE jobs.job_key = x.job_key;

-- name: close_jobs
-- Moves open jobs that this batch has locked among the ended ones, with what they came to. Walks jobs_pkey.
WITH gone AS (
    DELETE FROM jobs USING unnest(
        $1::bigint[], $2::timestamptz[], $3::smallint[], $4::int[], $5::bigint[], $6::timestamptz[], $7::text[],
        $8::timestamptz[], $9::int[], $10::bytea[], $11::timestamptz[], $12::timestamptz[], $13::bytea[], $14::text[],
        $15::bytea[]
    ) AS x (
        job_key, schedule_time, state, attempt, grants, start_time, cancel_reason, cancel_time, retries, details,
        end_time, expire_time, failure, owner_id, result
    )
    WHERE jobs.job_key = x.job_key
    RETURNING
        jobs.job_key, jobs.namespace_id, jobs.job_id, jobs.unique_key, jobs.type, jobs.task_queue, jobs.priority,
        jobs.correlation_id, jobs.traceparent, jobs.tracestate, jobs.create_time, jobs.retention_seconds,
        x.schedule_time, x.state, x.attempt, x.grants, x.start_time, x.cancel_reason, x.cancel_time, x.retries,
        x.details, x.end_time, x.expire_time, x.failure, x.owner_id, x.result
)
INSERT INTO closed_jobs (
    job_key, namespace_id, job_id, unique_key, type, task_queue, priority, correlation_id, traceparent, tracestate,
    create_time, retention_seconds, schedule_time, state, attempt, grants, start_time, cancel_reason, cancel_time,
    retries, details, end_time, expire_time, failure, owner_id, result
)
SELECT * FROM gone;

-- name: delete_closed_jobs
-- Takes jobs that are retried out of the ended ones, if nobody has retried them since they were looked at: fewer rows are
-- a conflict. Each names its key, so that only one partition is looked at: walks its primary key.
DELETE FROM closed_jobs
WHERE job_key = ANY($1::bigint[]) AND EXISTS (
    SELECT FROM unnest($1::bigint[], $2::int[]) AS x (job_key, retries)
    WHERE x.job_key = closed_jobs.job_key AND x.retries = closed_jobs.retries
);

-- name: read_due_jobs
-- Jobs that begin, try again or may have timed out, earliest first. Walks jobs_wake_idx. Locks nothing: the decision
-- looks again.
SELECT job_key, namespace_id, wake_time FROM jobs WHERE wake_time <= $1 ORDER BY wake_time LIMIT $2;

-- name: next_job_after
-- When the next job wants to be looked at, after a time. Walks jobs_wake_idx.
SELECT wake_time FROM jobs WHERE wake_time > $1 ORDER BY wake_time LIMIT 1;

-- name: read_jobs_of_sessions
-- Jobs that sessions hold. Walks jobs_session_idx.
SELECT job_key, namespace_id, grants, session_id FROM jobs WHERE session_id = ANY($1::uuid[]) LIMIT $2;

-- name: write_job_heartbeats
-- Notes heartbeats of jobs that their sessions still hold; answers which, whether they should stop, and which attempt
-- that is. Sorted by key. Walks jobs_pkey and heartbeats_pkey.
WITH held AS (
    SELECT x.job_key, x.ordinal, x.beat_time, x.details, j.attempt, j.cancel_time IS NOT NULL AS cancel_requested
    FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::uuid[], $5::timestamptz[], $6::bytea[])
        AS x (job_key, ordinal, token, session_id, beat_time, details)
    CROSS JOIN LATERAL (
        SELECT o.cancel_time, o.attempt, o.grants, o.session_id FROM jobs AS o WHERE o.job_key = x.job_key OFFSET 0
    ) AS j
    WHERE j.grants = x.token AND j.session_id = x.session_id
),
written AS (
    INSERT INTO heartbeats (run_key, ordinal, beat_time, details)
    SELECT job_key, ordinal, beat_time, details FROM held ORDER BY job_key
    ON CONFLICT (run_key, ordinal) DO UPDATE SET
        beat_time = excluded.beat_time,
        details = coalesce(excluded.details, heartbeats.details)
)
SELECT job_key, ordinal, cancel_requested, attempt FROM held;

-- name: delete_job_heartbeats
-- Forgets what was told of jobs that begin anew. Walks heartbeats_pkey.
DELETE FROM heartbeats USING unnest($1::bigint[]) AS x (job_key)
WHERE heartbeats.run_key = x.job_key AND heartbeats.ordinal = -1;

-- name: prune_jobs
-- Forgets, in a slice, jobs whose retention is over, with all that is known of them; those that were kept the longest
-- beyond it go first. Walks closed_jobs_expire_idx of each partition, then the partitions' primary keys, job_ids_pkey and
-- unique_jobs_pkey. A job that is just being retried is left to who has it.
WITH gone AS (
    DELETE FROM closed_jobs WHERE job_key IN (
        SELECT o.job_key FROM closed_jobs AS o
        WHERE o.expire_time <= $1
        ORDER BY o.expire_time
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    RETURNING job_key, job_id, namespace_id, unique_key
),
inputs AS (DELETE FROM job_inputs AS i USING gone AS g WHERE i.job_key = g.job_key),
ids AS (DELETE FROM job_ids AS i USING gone AS g WHERE i.job_id = g.job_id AND i.namespace_id = g.namespace_id),
keys AS (
    DELETE FROM unique_jobs AS u USING gone AS g
    WHERE u.unique_key = g.unique_key AND u.namespace_id = g.namespace_id AND u.job_key = g.job_key
)
SELECT job_key FROM gone;
