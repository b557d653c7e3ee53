-- name: read_namespaces
-- Every namespace; there are few.
SELECT namespace_id, name, create_time FROM namespaces;
