-- name: read_watchers
-- Waits of runs on topics. Walks watchers_pkey.
SELECT
    w.run_key, w.ordinal, w.namespace_id, w.topic, w.step_name, w.create_time, w.deadline, w.data
FROM unnest($1::bigint[], $2::bigint[]) AS x (run_key, ordinal),
    LATERAL (SELECT * FROM watchers AS o WHERE o.run_key = x.run_key AND o.ordinal = x.ordinal OFFSET 0) AS w;

-- name: write_watchers
-- Notes what runs wait for. Walks watchers_pkey.
INSERT INTO watchers (
    run_key, ordinal, namespace_id, topic, step_name, create_time, deadline, data
)
SELECT * FROM unnest(
    $1::bigint[], $2::int[], $3::int[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::bytea[]
)
ON CONFLICT (run_key, ordinal) DO UPDATE SET
    topic = excluded.topic, step_name = excluded.step_name, create_time = excluded.create_time,
    deadline = excluded.deadline, data = excluded.data;

-- name: delete_watchers
-- Forgets waits that are over. Walks watchers_pkey.
DELETE FROM watchers USING unnest($1::bigint[], $2::bigint[]) AS x (run_key, ordinal)
WHERE watchers.run_key = x.run_key AND watchers.ordinal = x.ordinal;

-- name: delete_watchers_of_runs
-- Forgets the waits of ended runs. Walks watchers_pkey.
DELETE FROM watchers WHERE run_key = ANY($1::bigint[]);

-- name: read_run_tasks
-- Tasks of driven runs. Walks run_tasks_pkey.
SELECT
    t.run_key, t.namespace_id, t.task_queue, t.is_ready, t.ready_time, t.owner_id, t.claim_time
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT * FROM run_tasks AS o WHERE o.run_key = x.run_key OFFSET 0) AS t;

-- name: write_run_tasks
-- Notes whether driven runs want a worker, and which has them. Walks run_tasks_pkey.
INSERT INTO run_tasks (
    run_key, namespace_id, task_queue, is_ready, ready_time, owner_id, claim_time
)
SELECT * FROM unnest(
    $1::bigint[], $2::int[], $3::text[], $4::boolean[], $5::timestamptz[], $6::text[], $7::timestamptz[]
)
ON CONFLICT (run_key) DO UPDATE SET
    is_ready = excluded.is_ready, ready_time = excluded.ready_time,
    owner_id = excluded.owner_id, claim_time = excluded.claim_time;

-- name: delete_run_tasks
-- Forgets the tasks of runs. Walks run_tasks_pkey.
DELETE FROM run_tasks WHERE run_key = ANY($1::bigint[]);

-- name: read_caller_seqs
-- Callers' own numbers of events. Walks caller_seqs_pkey.
SELECT
    s.run_key, s.caller_seq, s.number
FROM unnest($1::bigint[], $2::bigint[]) AS x (run_key, caller_seq),
    LATERAL (SELECT * FROM caller_seqs AS o WHERE o.run_key = x.run_key AND o.caller_seq = x.caller_seq OFFSET 0) AS s;

-- name: write_caller_seqs
INSERT INTO caller_seqs (
    run_key, caller_seq, number
)
SELECT * FROM unnest(
    $1::bigint[], $2::bigint[], $3::int[]
);

-- name: delete_caller_seqs
-- Forgets the numbers of ended runs, which take no more events; their history keeps them. Walks caller_seqs_pkey.
DELETE FROM caller_seqs WHERE run_key = ANY($1::bigint[]);

-- name: write_topic_waits
INSERT INTO topic_waits (
    run_key, ordinal, namespace_id, topic, after_number
)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::int[], $4::text[], $5::bigint[]);

-- name: delete_topic_waits
-- Forgets waits that are over. Walks topic_waits_pkey.
DELETE FROM topic_waits USING unnest($1::bigint[], $2::bigint[]) AS x (run_key, ordinal)
WHERE topic_waits.run_key = x.run_key AND topic_waits.ordinal = x.ordinal;
