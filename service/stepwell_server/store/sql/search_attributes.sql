-- name: hold_closed_runs
-- Locks ended runs, so that their attributes change under one hand at a time. Each names its key, so that only one
-- partition is looked at: walks its primary key.
SELECT c.run_key FROM closed_runs AS c WHERE c.run_key = ANY($1::bigint[]) FOR NO KEY UPDATE SKIP LOCKED;

-- name: read_search_attributes
-- All attributes of runs. Walks search_attributes_pkey.
SELECT
    a.run_key, a.name, a.namespace_id, a.kind, a.text_value, a.number_value, a.time_value
FROM unnest($1::bigint[]) AS x (run_key),
    LATERAL (SELECT * FROM search_attributes AS o WHERE o.run_key = x.run_key OFFSET 0) AS a;

-- name: write_search_attributes
-- Puts values in the place of those of their names. Walks search_attributes_pkey.
INSERT INTO search_attributes (
    run_key, name, namespace_id, kind, text_value, number_value, time_value
)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::int[], $4::smallint[], $5::text[], $6::numeric[], $7::timestamptz[]
)
ON CONFLICT (run_key, name) DO UPDATE SET
    kind = excluded.kind, text_value = excluded.text_value, number_value = excluded.number_value,
    time_value = excluded.time_value;

-- name: delete_search_attributes
-- Takes names away. Walks search_attributes_pkey.
DELETE FROM search_attributes AS a
USING unnest($1::bigint[], $2::text[]) AS x (run_key, name)
WHERE a.run_key = x.run_key AND a.name = x.name;
