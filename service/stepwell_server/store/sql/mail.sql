-- name: insert_mail
COPY mail (mail_id, run_key, post_time, body) FROM STDIN (FORMAT binary);

-- name: delete_mail
-- Takes applied mail away; answers what was there. Less than asked for is a conflict: somebody else applied it.
-- Walks mail_pkey.
DELETE FROM mail WHERE mail_id = ANY($1::uuid[]) RETURNING mail_id;

-- name: read_mail
-- Mail that has waited since before a time, oldest first. Walks mail_time_idx.
SELECT
    m.mail_id, m.run_key, m.post_time, m.body
FROM mail AS m
WHERE m.post_time <= $1
ORDER BY m.post_time
LIMIT $2;

-- name: mail_left
-- Which mail has not been applied. Walks mail_pkey.
SELECT mail_id FROM mail WHERE mail_id = ANY($1::uuid[]);
