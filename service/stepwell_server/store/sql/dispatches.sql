-- What batches do to the ledgers of outside engines: dispatches are claimed with their steps, and keys registered with
-- their runs.

-- name: find_idempotency_keys
-- The runs for which keys are registered, by the places of those who asked. Walks idempotency_keys_pkey.
SELECT x.place, k.run_id
FROM unnest($1::int[], $2::text[], $3::text[], $4::text[])
    WITH ORDINALITY AS x (namespace_id, type, trigger_key, idempotency_key, place),
    LATERAL (
        SELECT o.run_id FROM idempotency_keys AS o
        WHERE o.idempotency_key = x.idempotency_key AND o.namespace_id = x.namespace_id
            AND o.type = x.type AND o.trigger_key = x.trigger_key
        OFFSET 0
    ) AS k;

-- name: insert_idempotency_keys
-- Registers keys with their runs; one registered meanwhile is a conflict. Sorted by key.
COPY idempotency_keys (namespace_id, type, trigger_key, idempotency_key, run_id, register_time) FROM STDIN (FORMAT binary);

-- name: claim_dispatches
-- Notes that dispatched steps were claimed; the first time stays. Walks dispatches_pkey.
UPDATE dispatches SET claim_time = coalesce(dispatches.claim_time, x.claim_time)
FROM unnest($1::int[], $2::uuid[], $3::text[], $4::timestamptz[]) AS x (namespace_id, run_id, step_name, claim_time)
WHERE dispatches.run_id = x.run_id AND dispatches.namespace_id = x.namespace_id
    AND dispatches.step_name = x.step_name;

-- name: release_dispatches
-- Takes dispatches out of the ledger whose steps are to be done again. Walks dispatches_pkey.
DELETE FROM dispatches USING unnest($1::int[], $2::uuid[], $3::text[]) AS x (namespace_id, run_id, step_name)
WHERE dispatches.run_id = x.run_id AND dispatches.namespace_id = x.namespace_id
    AND dispatches.step_name = x.step_name;
