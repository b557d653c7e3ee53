-- name: take_committer_number
SELECT nextval('committer_numbers') AS number;

-- name: find_batch
-- Whether a batch of a committer is there. Walks batches_position_idx.
SELECT EXISTS (SELECT FROM batches AS b WHERE b.committer = $1 AND b.position = $2) AS found;

-- name: insert_batch
-- A row for each batch: settles whether it committed, and orders what watchers see.
COPY batches (batch_id, committer, position, commit_time, ended, notices) FROM STDIN (FORMAT binary);

-- name: settle_batch
-- Waits for the batch's transaction if it is still open. Answers its committer if it committed; else 0, this row's own
-- or that of an earlier try whose answer was lost, and the batch never will.
INSERT INTO batches (batch_id, committer, position, commit_time, ended)
VALUES ($1, 0, nextval('committer_numbers'), $2, '{}')
ON CONFLICT (batch_id) DO UPDATE SET committer = batches.committer
RETURNING committer;

-- name: prune_batches
-- Forgets batches older than any watch cursor may be. Their ids rise with time. Walks batches_pkey.
DELETE FROM batches WHERE batch_id IN (
    SELECT batch_id FROM batches WHERE batch_id < $1 AND commit_time < $2 ORDER BY batch_id LIMIT $3
) RETURNING batch_id;
