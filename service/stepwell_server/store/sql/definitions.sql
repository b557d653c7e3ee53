-- name: find_definitions_by_id
-- Definitions that starts name by their ids. Walks
-- definitions_namespace_id_definition_id_key.
SELECT x.place, d.definition_key, d.definition_id, d.code, d.version
FROM unnest($1::int[], $2::uuid[], $3::text[], $4::int[]) WITH ORDINALITY
        AS x (namespace_id, definition_id, code, version, place),
    LATERAL (
        SELECT * FROM definitions AS o
        WHERE o.namespace_id = x.namespace_id AND o.definition_id = x.definition_id
        OFFSET 0
    ) AS d
WHERE (x.code = '' OR d.code = x.code) AND (x.version = 0 OR d.version = x.version);

-- name: find_definitions_by_code
-- Definitions that starts name by code and version; without a version the latest active one. Walks
-- definitions_namespace_id_code_version_key backwards.
SELECT x.place, d.definition_key, d.definition_id, d.code, d.version
FROM unnest($1::int[], $2::text[], $3::int[]) WITH ORDINALITY AS x (namespace_id, code, version, place),
    LATERAL (
        SELECT * FROM definitions AS o
        WHERE o.namespace_id = x.namespace_id AND o.code = x.code
            AND o.version >= x.version AND o.version <= CASE WHEN x.version = 0 THEN 2147483647 ELSE x.version END
            AND (o.active OR x.version > 0)
        ORDER BY o.version DESC
        LIMIT 1
        OFFSET 0
    ) AS d;

-- name: hold_definitions
-- Definitions by key, kept from being deleted until the batch ends; one that is being deleted just now does not come
-- back. Walks definitions_pkey.
SELECT d.definition_key
FROM unnest($1::bigint[]) AS x (definition_key),
    LATERAL (
        SELECT o.definition_key FROM definitions AS o
        WHERE o.definition_key = x.definition_key
        OFFSET 0
        FOR KEY SHARE SKIP LOCKED
    ) AS d;
