-- name: read_server
-- What the database says of itself.
SELECT
    current_setting('server_version') AS version, pg_is_in_recovery() AS is_standby,
    pg_postmaster_start_time() AS start_time, clock_timestamp() AS time,
    pg_database_size(current_database()) AS database_bytes,
    (SELECT count(*)::int FROM pg_stat_activity) AS connections,
    (SELECT age(d.datfrozenxid) FROM pg_database AS d WHERE d.datname = current_database()) AS oldest_transaction_age,
    ARRAY(SELECT e.extname::text FROM pg_extension AS e ORDER BY e.extname) AS extensions;

-- name: read_server_settings
-- Those that matter here; no other.
SELECT s.name, s.setting, s.unit, s.source FROM pg_settings AS s WHERE s.name = ANY($1::text[]) ORDER BY s.name;

-- name: read_activity
-- Who is connected to this database and what holds them up. Names that others gave themselves are left out.
SELECT
    a.pid, CASE WHEN a.application_name ~ '^stepwell' THEN a.application_name ELSE '' END AS application, a.state,
    a.wait_event_type, a.wait_event, a.backend_start, a.xact_start, a.query_start, a.state_change,
    age(a.backend_xmin) AS xmin_age, pg_blocking_pids(a.pid) AS blocked_by, a.query
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
ORDER BY a.xact_start, a.pid
LIMIT 500;

-- name: read_locks
-- Locks that are waited for, and advisory ones.
SELECT l.pid, l.locktype, l.mode, l.granted, c.relname::text AS relation, l.waitstart AS wait_start
FROM pg_locks AS l
LEFT JOIN pg_class AS c ON c.oid = l.relation
WHERE
    l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND (NOT l.granted OR l.locktype = 'advisory')
ORDER BY l.pid
LIMIT 500;

-- name: read_tables
-- How large our tables are, how many dead rows they have, and when they were last vacuumed.
SELECT
    s.relname::text AS name, pg_total_relation_size(s.relid) AS total_bytes, pg_relation_size(s.relid) AS table_bytes,
    c.reltuples::bigint AS estimated_rows, s.n_live_tup AS live_rows, s.n_dead_tup AS dead_rows,
    s.n_mod_since_analyze AS changed_since_analyze, s.seq_scan AS whole_scans, s.idx_scan AS index_scans,
    greatest(s.last_vacuum, s.last_autovacuum) AS last_vacuum, greatest(s.last_analyze, s.last_autoanalyze)
    AS last_analyze, c.reloptions AS options
FROM pg_stat_user_tables AS s
INNER JOIN pg_class AS c ON c.oid = s.relid
WHERE s.schemaname = $1
ORDER BY total_bytes DESC
LIMIT 1000;

-- name: read_indexes
-- How large our indexes are, how often they are used, and whether they are whole.
SELECT
    s.relname::text AS table_name, s.indexrelname::text AS name, pg_relation_size(s.indexrelid) AS bytes,
    s.idx_scan AS scans, i.indisvalid AS is_valid
FROM pg_stat_user_indexes AS s
INNER JOIN pg_index AS i ON i.indexrelid = s.indexrelid
WHERE s.schemaname = $1
ORDER BY bytes DESC
LIMIT 1000;

-- name: read_sequences
-- How far our sequences have come.
SELECT s.sequencename::text AS name, s.last_value, s.max_value
FROM pg_sequences AS s
WHERE s.schemaname = $1
ORDER BY s.sequencename
LIMIT 1000;

-- name: read_all_partitions
-- Which partitions our tables have, and how large they are.
SELECT
    p.relname::text AS table_name, c.relname::text AS name, pg_total_relation_size(c.oid) AS total_bytes,
    pg_get_expr(c.relpartbound, c.oid) AS bounds
FROM pg_inherits AS i
INNER JOIN pg_class AS p ON p.oid = i.inhparent
INNER JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE p.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p')
ORDER BY p.relname, c.relname
LIMIT 1000;

-- name: read_migrations
-- Which migrations were applied, and when.
SELECT m.number, m.name, m.apply_time FROM stepwell_schema AS m ORDER BY m.number LIMIT 1000;

-- name: read_leader
-- Who led last, and in which term.
SELECT l.holder, l.epoch FROM leaderships AS l WHERE l.name = '' LIMIT 1;

-- name: read_leader_lock
-- Which backend has the leader's lock; nothing if nobody leads.
SELECT l.pid
FROM pg_locks AS l
WHERE
    l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND ((l.classid::bigint << 32) | l.objid::bigint) = $1
LIMIT 1;

-- name: count_sessions
-- How many sessions workers have in each namespace, and how many of them have expired.
SELECT
    n.name AS namespace, count(*)::int AS sessions,
    (count(*) FILTER (WHERE s.expire_time <= $1))::int AS expired,
    (count(*) FILTER (WHERE s.expire_time = '-infinity'))::int AS condemned,
    min(s.register_time) AS oldest
FROM sessions AS s
INNER JOIN namespaces AS n ON n.namespace_id = s.namespace_id
GROUP BY n.name
ORDER BY n.name
LIMIT 1000;

-- name: count_inbox
-- How many rows of the inbox wait, counted up to a bound, and since when the first does.
SELECT count(*)::int AS waiting, min(i.append_time) AS oldest
FROM (SELECT x.append_time FROM inbox AS x ORDER BY x.number LIMIT 10000) AS i;
