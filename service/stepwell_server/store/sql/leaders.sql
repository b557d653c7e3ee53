-- name: try_leader_lock
-- Takes the leader's lock for this session, if nobody has it; tells which backend serves the session.
SELECT pg_try_advisory_lock($1) AS taken, pg_backend_pid() AS backend;

-- name: probe_leader
-- Proves that the session lives, and keeps it from being dropped as idle; tells whether the database takes writes.
SELECT pg_backend_pid() AS backend, current_setting('transaction_read_only') = 'off' AS writable;

-- name: raise_epoch
-- Counts an election of our own leader. No outside engine can take the empty name. Walks leaderships_pkey.
INSERT INTO leaderships AS l (name, holder, epoch, expire_time) VALUES ('', $1, 1, 'infinity')
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = l.epoch + 1
RETURNING epoch;
