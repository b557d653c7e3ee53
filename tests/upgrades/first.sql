-- Rows as a server of the first migration left them: 19,000 runs that ended, 1,000 that wait for something, and 500 of
-- an outside engine. They fit the schema of 0001 and nothing later.

SELECT setval('run_key_blocks', 100), setval('committer_numbers', 10);

CREATE TEMPORARY TABLE old AS
SELECT i AS run_key, md5('run' || i)::uuid AS run_id, 'old-' || i AS name, i > 20000 AS driven,
    CASE
        WHEN i > 20000 THEN 'driven'
        WHEN i > 19800 THEN 'sleeps'
        WHEN i > 19600 THEN 'waits'
        WHEN i > 19400 THEN 'held'
        WHEN i > 19000 THEN 'fresh'
        WHEN i % 20 = 0 THEN 'failed'
        ELSE 'completed'
    END AS kind
FROM generate_series(1, 20500) AS i;

CREATE TEMPORARY TABLE calls AS
SELECT kind, step_kind, step_name, substring(
    sha256('\x0000000000000000'::bytea || set_byte('\x00'::bytea, 0, step_kind) || int4send(length(step_name))
        || convert_to(step_name, 'UTF8')) FOR 8
) AS hash
FROM (VALUES ('held', 1, 'first'), ('waits', 4, 'go'), ('sleeps', 3, 'sleep')) AS c (kind, step_kind, step_name);

INSERT INTO run_ids (run_id, namespace_id, run_key) SELECT run_id, 1, run_key FROM old;
INSERT INTO workflow_ids (workflow_id, namespace_id, run_key) SELECT name, 1, run_key FROM old;
INSERT INTO sessions (session_id, namespace_id, worker_id, register_time, hello, expire_time)
VALUES (md5('session')::uuid, 1, 'old-worker', now() - interval '2 hours', '', now() - interval '1 hour');

INSERT INTO runs (
    run_key, namespace_id, run_id, workflow_id, type, task_queue, priority, driven, managed, parent_ordinal,
    correlation_id, traceparent, tracestate, create_time, phase, version, last_event, last_step, last_signal,
    open_steps, order_count, order_hash, grants, session_id, returns, queued, dirty, owner_id, build_id, update_time,
    wake_time
)
SELECT run_key, 1, run_id, name, 'old', 'default', 4, driven, NOT driven, 0, 'batch-' || run_key % 10, '', '',
    now() - interval '2 hours',
    CASE o.kind WHEN 'fresh' THEN 1 WHEN 'driven' THEN 3 ELSE 2 END,
    CASE o.kind WHEN 'fresh' THEN 1 ELSE 3 END,
    CASE o.kind WHEN 'fresh' THEN 1 WHEN 'waits' THEN 32 ELSE 2 END,
    CASE o.kind WHEN 'fresh' THEN 0 ELSE 1 END,
    CASE o.kind WHEN 'waits' THEN 30 ELSE 0 END,
    CASE WHEN o.kind IN ('waits', 'sleeps', 'driven') THEN 1 ELSE 0 END,
    CASE WHEN c.hash IS NULL THEN 0 ELSE 1 END, coalesce(c.hash, '\x0000000000000000'),
    CASE WHEN o.kind IN ('fresh', 'driven') THEN 0 ELSE 1 END,
    CASE o.kind WHEN 'held' THEN md5('session')::uuid END,
    0, o.kind = 'fresh', FALSE, '', '', now() - interval '2 hours',
    CASE o.kind WHEN 'driven' THEN now() + interval '1 day' END
FROM old AS o LEFT JOIN calls AS c USING (kind)
WHERE run_key > 19000;
INSERT INTO tasks (run_key, ordinal, namespace_id, task_queue, kind, type, rank, ready_time, build_id)
SELECT run_key, 0, 1, 'default', 1, 'old', 5, now() - interval '2 hours', '' FROM old WHERE kind = 'fresh';
INSERT INTO steps (
    run_key, ordinal, scope, name, occurrence, key, kind, type, task_queue, priority, wait_name, seq, create_time,
    input_event, state, attempt, grants, returns, owner_id, wake_time, cancel_requested
)
SELECT run_key, 1, '', c.step_name, 0, '', c.step_kind, '', 'default', 4, CASE kind WHEN 'waits' THEN 'go' END, 0,
    now() - interval '2 hours', 0, 3, 0, 0, 0, '', CASE kind WHEN 'sleeps' THEN now() - interval '1 hour' END, FALSE
FROM old JOIN calls AS c USING (kind) WHERE kind IN ('waits', 'sleeps');
INSERT INTO steps (
    run_key, ordinal, scope, name, occurrence, key, kind, type, task_queue, priority, seq, create_time, input_event,
    state, attempt, grants, returns, owner_id, start_time, cancel_requested
)
SELECT run_key, 1, '', 'fetch', 0, '', 2, 'fetch', 'outside', 4, 0, now() - interval '2 hours', 0, 2, 1, 1, 0,
    'engine', now() - interval '2 hours', FALSE
FROM old WHERE kind = 'driven';
INSERT INTO watchers (run_key, ordinal, namespace_id, topic, step_name, create_time)
SELECT run_key, 0, 1, 'news', 'fetch', now() - interval '2 hours' FROM old WHERE kind = 'driven';
INSERT INTO heartbeats (run_key, ordinal, beat_time)
SELECT run_key, 1, now() - interval '2 hours' FROM old WHERE kind = 'driven';

INSERT INTO signals (run_key, ordinal, name, event, signal_id, consumed, receive_time)
SELECT run_key, n, 'noise', n + 2, CASE WHEN n % 2 = 0 THEN 'id-' || n END, FALSE, now() - interval '1 hour'
FROM old, generate_series(1, 30) AS n WHERE kind = 'waits';

INSERT INTO closed_runs (
    run_key, namespace_id, run_id, workflow_id, type, task_queue, priority, driven, managed, parent_ordinal,
    correlation_id, traceparent, tracestate, create_time, phase, version, last_event, last_step, last_signal,
    order_count, order_hash, grants, build_id, end_time, end_event
)
SELECT run_key, 1, run_id, name, 'old', 'default', 4, FALSE, TRUE, 0, 'batch-' || run_key % 10, '', '',
    now() - interval '1 day', CASE kind WHEN 'failed' THEN 5 ELSE 4 END, 3, 3, 1, 0, 1,
    (SELECT hash FROM calls AS c WHERE c.kind = 'held'), 1, '', now() - interval '23 hours', 3
FROM old WHERE run_key <= 19000;
INSERT INTO closed_steps (
    run_key, ordinal, scope, name, occurrence, key, kind, type, task_queue, priority, seq, create_time, input_event,
    state, attempt, grants, start_time, end_time, end_event, timed_out
)
SELECT run_key, 1, '', 'first', 0, '', 1, '', 'default', 4, 0, now() - interval '1 day', 0, 4, 1, 0,
    now() - interval '1 day', now() - interval '1 day', 2, FALSE
FROM old WHERE run_key <= 19000 OR kind = 'held';
INSERT INTO caller_seqs (run_key, caller_seq, number) SELECT run_key, 1, 2 FROM old WHERE kind = 'driven';

-- JSON texts; attributes as a msgpack map: {"failure": {"message": "no"}}.
INSERT INTO events (
    run_key, number, type, origin, step_ordinal, event_time, payload_kind, payload, caller_seq, attributes
)
SELECT run_key, 1, 1, 1, 0, now() - interval '1 day', 1, convert_to('"' || kind || '"', 'UTF8'), 0, NULL::bytea FROM old
UNION ALL
SELECT run_key, 2, CASE kind WHEN 'waits' THEN 50 WHEN 'sleeps' THEN 40 WHEN 'driven' THEN 25 ELSE 20 END, 1, 1,
    now() - interval '1 day', CASE WHEN kind IN ('completed', 'failed', 'held') THEN 1 ELSE 0 END,
    CASE WHEN kind IN ('completed', 'failed', 'held') THEN '1'::bytea ELSE ''::bytea END, 0, NULL
FROM old WHERE kind <> 'fresh'
UNION ALL
SELECT run_key, 3, 2, 1, 0, now() - interval '23 hours', 1, '"did well"'::bytea, 0, NULL FROM old WHERE kind = 'completed'
UNION ALL
SELECT run_key, 3, 3, 1, 0, now() - interval '23 hours', 0, ''::bytea, 0, '\x81a76661696c75726581a76d657373616765a26e6f'::bytea
FROM old WHERE kind = 'failed'
UNION ALL
SELECT run_key, n + 2, 54, 1, 0, now() - interval '1 hour', 1, convert_to(n::text, 'UTF8'), 0, NULL
FROM old, generate_series(1, 30) AS n WHERE kind = 'waits';

INSERT INTO batches (batch_id, committer, position, commit_time, ended)
SELECT md5('batch' || n)::uuid, 9, n, now() - interval '2 hours', ARRAY[n] FROM generate_series(1, 3000) AS n;
INSERT INTO leaderships (name, holder, epoch, expire_time)
SELECT 'engine-' || n, 'engine', n, now() - interval '1 hour' FROM generate_series(1, 10) AS n;
DROP TABLE old, calls;
ANALYZE;
