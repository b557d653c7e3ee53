-- name: notify
-- Tells whoever listens.
SELECT pg_notify($1, $2);
