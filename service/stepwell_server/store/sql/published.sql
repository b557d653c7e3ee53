-- name: write_published
-- Puts values in the place of those of their names. Walks published_pkey.
INSERT INTO published (
    run_key, name, payload, publish_time
)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::bytea[], $4::timestamptz[]
)
ON CONFLICT (run_key, name) DO UPDATE SET payload = excluded.payload, publish_time = excluded.publish_time;
