-- name: hold_namespaces
-- Namespaces by id, kept from being deleted until the batch ends; one that is being deleted just now does not come
-- back. Walks namespaces_pkey.
SELECT n.namespace_id
FROM unnest($1::int[]) AS x (namespace_id),
    LATERAL (
        SELECT o.namespace_id FROM namespaces AS o
        WHERE o.namespace_id = x.namespace_id
        OFFSET 0
        FOR KEY SHARE SKIP LOCKED
    ) AS n;

-- name: find_namespaces
-- Namespaces that are there, by id. Walks namespaces_pkey.
SELECT n.namespace_id
FROM unnest($1::int[]) AS x (namespace_id),
    LATERAL (SELECT o.namespace_id FROM namespaces AS o WHERE o.namespace_id = x.namespace_id OFFSET 0) AS n;
