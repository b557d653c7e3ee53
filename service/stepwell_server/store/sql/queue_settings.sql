-- name: lock_queue_settings
-- The settings of queues out of which a batch wants to give something, locked: their buckets are this batch's until it
-- has ended. Those that another batch has do not come back. Walks queue_settings_pkey. Locks queue_settings, before tasks.
SELECT
    q.namespace_id, q.task_queue, q.version, q.update_time, q.rate_per_second, q.rate_burst, q.spent_until,
    q.aging_seconds, q.fairness_weights, q.key_rate_per_second, q.key_rate_burst
FROM unnest($1::int[], $2::text[]) AS x (namespace_id, task_queue),
    LATERAL (
        SELECT s.* FROM queue_settings AS s
        WHERE s.namespace_id = x.namespace_id AND s.task_queue = x.task_queue
        OFFSET 0
        FOR UPDATE SKIP LOCKED
    ) AS q;

-- name: spend_tokens
-- Notes what was taken out of buckets that the batch has locked. Walks queue_settings_pkey.
UPDATE queue_settings AS s
SET spent_until = x.spent_until
FROM unnest($1::int[], $2::text[], $3::timestamptz[]) AS x (namespace_id, task_queue, spent_until)
WHERE s.namespace_id = x.namespace_id AND s.task_queue = x.task_queue;
