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

-- name: write_topic_waits
INSERT INTO topic_waits (
    run_key, ordinal, namespace_id, topic, after_number
)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::int[], $4::text[], $5::bigint[]);

-- name: delete_topic_waits
-- Forgets waits that are over. Walks topic_waits_pkey.
DELETE FROM topic_waits USING unnest($1::bigint[], $2::bigint[]) AS x (run_key, ordinal)
WHERE topic_waits.run_key = x.run_key AND topic_waits.ordinal = x.ordinal;

-- name: read_user_tasks
-- Tasks for people. Walks user_tasks_pkey.
SELECT
    t.run_key, t.ordinal, t.namespace_id, t.task_id, t.run_id, t.workflow_id, t.step_name, t.title, t.description,
    t.schema_type, t.assigned_role_id, t.assigned_user_id, t.assigned_group_id, t.priority, t.due_time, t.signal_name,
    t.status, t.create_time, t.update_time, t.claimed_by, t.claim_time, t.completed_by, t.complete_time, t.version,
    t.input_event, t.output_event
FROM unnest($1::bigint[], $2::bigint[]) AS x (run_key, ordinal),
    LATERAL (SELECT * FROM user_tasks AS o WHERE o.run_key = x.run_key AND o.ordinal = x.ordinal OFFSET 0) AS t;

-- name: find_user_tasks
-- Which of these ids are given to tasks. Walks user_tasks_task_id_key; `+ 0` keeps an empty table's plan from lists' ones.
SELECT x.task_id, x.namespace_id
FROM unnest($1::uuid[], $2::int[]) AS x (task_id, namespace_id),
    LATERAL (
        SELECT 1 FROM user_tasks AS o WHERE o.task_id = x.task_id AND o.namespace_id + 0 = x.namespace_id OFFSET 0
    ) AS t;

-- name: write_user_tasks
-- Makes tasks, and changes them. Walks user_tasks_pkey.
INSERT INTO user_tasks (
    run_key, ordinal, namespace_id, task_id, run_id, workflow_id, step_name, title, description, schema_type,
    assigned_role_id, assigned_user_id, assigned_group_id, priority, due_time, signal_name, status, create_time,
    update_time, claimed_by, claim_time, completed_by, complete_time, version, input_event, output_event
)
SELECT * FROM unnest(
    $1::bigint[], $2::int[], $3::int[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::text[], $14::smallint[], $15::timestamptz[], $16::text[],
    $17::smallint[], $18::timestamptz[], $19::timestamptz[], $20::text[], $21::timestamptz[], $22::text[],
    $23::timestamptz[], $24::bigint[], $25::int[], $26::int[]
)
ON CONFLICT (run_key, ordinal) DO UPDATE SET
    step_name = excluded.step_name, title = excluded.title, description = excluded.description,
    schema_type = excluded.schema_type, assigned_role_id = excluded.assigned_role_id,
    assigned_user_id = excluded.assigned_user_id, assigned_group_id = excluded.assigned_group_id,
    priority = excluded.priority, due_time = excluded.due_time, signal_name = excluded.signal_name,
    status = excluded.status, update_time = excluded.update_time, claimed_by = excluded.claimed_by,
    claim_time = excluded.claim_time, completed_by = excluded.completed_by, complete_time = excluded.complete_time,
    version = excluded.version, input_event = excluded.input_event, output_event = excluded.output_event;

-- name: delete_user_tasks
-- Forgets tasks. Walks user_tasks_pkey.
DELETE FROM user_tasks USING unnest($1::bigint[], $2::bigint[]) AS x (run_key, ordinal)
WHERE user_tasks.run_key = x.run_key AND user_tasks.ordinal = x.ordinal;

-- name: read_run_origins
-- What set driven runs off. Walks run_origins_pkey.
SELECT
    r.run_key, r.namespace_id, r.title, r.trigger_key, r.idempotency_key, r.source_run_id
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT * FROM run_origins AS o WHERE o.run_key = x.run_key OFFSET 0) AS r;

-- name: write_run_origins
-- Notes what set driven runs off. Walks run_origins_pkey.
INSERT INTO run_origins (
    run_key, namespace_id, title, trigger_key, idempotency_key, source_run_id
)
SELECT * FROM unnest(
    $1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::uuid[]
)
ON CONFLICT (run_key) DO UPDATE SET
    title = excluded.title, trigger_key = excluded.trigger_key, idempotency_key = excluded.idempotency_key;
-- name: write_run_definitions
-- Notes which definitions new runs follow; their rows are held meanwhile. Sorted by run.
INSERT INTO run_definitions (
    run_key, definition_key
)
SELECT * FROM unnest($1::bigint[], $2::bigint[]);

-- name: find_run_debounces
-- Which runs wait until no start of their key comes. Walks run_debounces_namespace_id_type_key_key.
SELECT x.place, d.run_key
FROM unnest($1::int[], $2::int[], $3::text[], $4::text[]) AS x (place, namespace_id, type, key),
    LATERAL (
        SELECT o.run_key FROM run_debounces AS o
        WHERE o.namespace_id = x.namespace_id AND o.type = x.type AND o.key = x.key OFFSET 0
    ) AS d;

-- name: write_run_debounces
-- Notes runs that wait until no start of their key comes. Sorted by run; a key that is there is another's.
INSERT INTO run_debounces (
    run_key, namespace_id, type, key
)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[]);

-- name: delete_run_debounces
-- Those runs begin, or end. Walks run_debounces_pkey.
DELETE FROM run_debounces USING unnest($1::bigint[], $2::bigint[]) AS x (run_key, which)
WHERE run_debounces.run_key = x.run_key;

-- name: read_concurrency_slots
-- How runs stand with their limits. Walks concurrency_slots_pkey.
SELECT
    s.run_key, s.namespace_id, s.name, s.line, s.key, s.maximum_runs, s.strategy, s.arrive_time, s.admit_time,
    s.gives_way
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT * FROM concurrency_slots AS o WHERE o.run_key = x.run_key OFFSET 0) AS s;

-- name: write_concurrency_slots
-- Lets runs join their lines, and gives them slots. Walks concurrency_slots_pkey.
INSERT INTO concurrency_slots (
    run_key, namespace_id, name, line, key, maximum_runs, strategy, arrive_time, admit_time, gives_way
)
SELECT * FROM unnest(
    $1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::int[], $7::smallint[], $8::timestamptz[],
    $9::timestamptz[], $10::boolean[]
)
ON CONFLICT (run_key) DO UPDATE SET admit_time = excluded.admit_time, gives_way = excluded.gives_way;

-- name: delete_concurrency_slots
-- Frees the slots of runs, and their places in the line. Walks concurrency_slots_pkey.
DELETE FROM concurrency_slots USING unnest($1::bigint[], $2::bigint[]) AS x (run_key, which)
WHERE concurrency_slots.run_key = x.run_key;

-- name: read_run_data
-- Named payloads of runs. Walks run_data_pkey.
SELECT d.run_key, d.name, d.payload
FROM unnest($1::bigint[], $2::text[]) AS x (run_key, name),
    LATERAL (SELECT * FROM run_data AS o WHERE o.run_key = x.run_key AND o.name = x.name OFFSET 0) AS d;

-- name: write_run_data
-- Puts named payloads in the place of what there was. Walks run_data_pkey.
INSERT INTO run_data (
    run_key, name, payload
)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[])
ON CONFLICT (run_key, name) DO UPDATE SET payload = excluded.payload;

-- name: delete_run_data
-- Takes named payloads away. Walks run_data_pkey.
DELETE FROM run_data USING unnest($1::bigint[], $2::text[]) AS x (run_key, name)
WHERE run_data.run_key = x.run_key AND run_data.name = x.name;
