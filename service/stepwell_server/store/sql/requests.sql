-- name: read_requests
-- What requests were answered before. Walks requests_pkey.
SELECT
    r.request_id, r.namespace_id, r.method, r.body_hash, r.answer, r.request_time
FROM unnest($1::text[], $2::int[], $3::text[]) AS x (request_id, namespace_id, method),
    LATERAL (
        SELECT * FROM requests AS o
        WHERE o.request_id = x.request_id AND o.namespace_id = x.namespace_id AND o.method = x.method
        OFFSET 0
    ) AS r;

-- name: insert_requests
COPY requests (request_id, namespace_id, method, body_hash, answer, request_time) FROM STDIN (FORMAT binary);
