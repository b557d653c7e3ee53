-- name: last_run_key
-- About the greatest run key given. Keys are taken in blocks of 1,000.
SELECT last_value * 1000 + 999 AS run_key FROM run_key_blocks;

-- name: read_partitions
-- The names of a table's partitions.
SELECT c.relname::text AS name
FROM pg_inherits AS i
INNER JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass($1);
