-- The functions for programs keep to the limits that the service is set to.

-- One row, which the leader writes; without it the defaults hold.
CREATE TABLE inbox_limits (
    is_only boolean PRIMARY KEY CHECK (is_only),
    id_bytes bigint NOT NULL,           -- of a name or an id
    payload_bytes bigint NOT NULL       -- of an input, a signal's payload or a result
);

-- As in 0023: the functions look for names nowhere else.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', TRUE);

-- Text of at most so many bytes as an id may have, without control characters; empty only if it need not be there.
CREATE OR REPLACE FUNCTION inbox_text(field text, given text, is_required boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    value text := coalesce(given, '');
    at_most bigint := coalesce((SELECT l.id_bytes FROM inbox_limits AS l), 255);
BEGIN
    IF value = '' AND is_required THEN
        RAISE invalid_parameter_value
            USING MESSAGE = format('%s is required: give it 1 to %s bytes of text', field, at_most);
    ELSIF octet_length(convert_to(value, 'UTF8')) > at_most THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s has more than %s bytes', field, at_most);
    ELSIF value ~ '[\u0001-\u001f\u007f-\u009f]' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s holds a control character: leave it out', field);
    END IF;
    RETURN value;
END
$$;

-- JSON as bytes, at most so many as a payload may have; the null value is none.
CREATE OR REPLACE FUNCTION inbox_payload(field text, given jsonb) RETURNS bytea
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    body bytea := convert_to(given::text, 'UTF8');
    at_most bigint := coalesce((SELECT l.payload_bytes FROM inbox_limits AS l), 2097152);
BEGIN
    IF octet_length(body) > at_most THEN
        RAISE invalid_parameter_value USING MESSAGE =
            format('%s has %s bytes, and a payload at most %s: send a reference', field, octet_length(body), at_most);
    END IF;
    RETURN body;
END
$$;
