-- What programs ask for in transactions of their own, by calling functions here: see docs/inbox.md.

-- What was asked for. The leader brings it to the committers; it goes in the transaction that does it.
CREATE TABLE inbox (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- of one transaction's, and of one session's, in their order
    namespace_id int NOT NULL,
    namespace text NOT NULL,
    verb smallint NOT NULL,             -- model.inbox.Verb
    run_id uuid,                        -- whom it is about, or what it starts
    workflow_id text NOT NULL,
    name text NOT NULL,                 -- the run's type, the signal's name, the step's name
    task_queue text NOT NULL,
    priority smallint NOT NULL,
    signal_id text NOT NULL,
    token bigint NOT NULL,
    payload bytea,                      -- JSON text; none: null
    append_time timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- What could not be done, and why. Kept for a while.
CREATE TABLE dead_letters (
    number bigint PRIMARY KEY,
    namespace_id int NOT NULL,
    namespace text NOT NULL,
    verb smallint NOT NULL,
    run_id uuid,
    workflow_id text NOT NULL,
    name text NOT NULL,
    task_queue text NOT NULL,
    priority smallint NOT NULL,
    signal_id text NOT NULL,
    token bigint NOT NULL,
    payload bytea,
    append_time timestamptz NOT NULL,
    reason text NOT NULL,               -- of the refusal
    message text NOT NULL,
    refuse_time timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX dead_letters_namespace_idx ON dead_letters (namespace_id, number);
CREATE INDEX dead_letters_time_idx ON dead_letters (refuse_time);

-- The functions run as the owner of the tables, whoever calls them, and look for names nowhere else.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', TRUE);

-- Text of 1 to 255 bytes, or empty if it need not be there, without control characters.
CREATE FUNCTION inbox_text(field text, given text, is_required boolean) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    value text := coalesce(given, '');
BEGIN
    IF value = '' AND is_required THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s is required: give it 1 to 255 bytes of text', field);
    ELSIF octet_length(convert_to(value, 'UTF8')) > 255 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s has more than 255 bytes', field);
    ELSIF value ~ '[\u0001-\u001f\u007f-\u009f]' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s holds a control character: leave it out', field);
    END IF;
    RETURN value;
END
$$;

-- JSON as bytes, at most 2 MiB; the null value is none.
CREATE FUNCTION inbox_payload(field text, given jsonb) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    body bytea := convert_to(given::text, 'UTF8');
BEGIN
    IF octet_length(body) > 2097152 THEN
        RAISE invalid_parameter_value
            USING MESSAGE = format('%s has %s bytes, and a payload at most 2097152: send a reference', field, octet_length(body));
    END IF;
    RETURN body;
END
$$;

-- The id of a namespace that there is. Nothing is locked: an open transaction must not keep it from being deleted.
CREATE FUNCTION inbox_namespace(given text) RETURNS int
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    found_id int;
BEGIN
    SELECT n.namespace_id INTO found_id FROM namespaces AS n WHERE n.name = given;
    IF found_id IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('namespace %s does not exist', quote_nullable(left(given, 255)));
    END IF;
    RETURN found_id;
END
$$;

-- A UUIDv7 of now.
CREATE FUNCTION inbox_uuid() RETURNS uuid
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
SELECT encode(
    set_bit(
        set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                PLACING substring(int8send((extract(EPOCH FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6
            ),
            52, 1
        ),
        53, 1
    ),
    'hex'
)::uuid
$$;

-- Starts a run, and answers its id at once.
CREATE FUNCTION stepwell_start(
    type text,
    input jsonb DEFAULT NULL,
    workflow_id text DEFAULT '',
    task_queue text DEFAULT 'default',
    priority int DEFAULT 4,
    run_id uuid DEFAULT NULL,
    namespace text DEFAULT 'main'
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    own_id uuid := coalesce(stepwell_start.run_id, inbox_uuid());
    namespace_id int := inbox_namespace(stepwell_start.namespace);
BEGIN
    IF priority IS NULL OR priority NOT BETWEEN 0 AND 9 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('priority is %s: it must be 0 to 9', coalesce(priority::text, 'null'));
    END IF;
    INSERT INTO inbox (
        namespace_id, namespace, verb, run_id, workflow_id, name, task_queue, priority, signal_id, token, payload,
        append_time
    ) VALUES (
        namespace_id, stepwell_start.namespace, 1, own_id, inbox_text('workflow_id', stepwell_start.workflow_id, FALSE),
        inbox_text('type', stepwell_start.type, TRUE), inbox_text('task_queue', stepwell_start.task_queue, TRUE), priority,
        '', 0, inbox_payload('input', stepwell_start.input), clock_timestamp()
    );
    RETURN own_id;
END
$$;

-- Sends a signal to a run, by its id or by its workflow id, and answers the number under which that waits.
CREATE FUNCTION stepwell_signal(
    signal_name text,
    payload jsonb DEFAULT NULL,
    run_id uuid DEFAULT NULL,
    workflow_id text DEFAULT '',
    signal_id text DEFAULT '',
    namespace text DEFAULT 'main'
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    namespace_id int := inbox_namespace(stepwell_signal.namespace);
    own_name text := inbox_text('workflow_id', stepwell_signal.workflow_id, stepwell_signal.run_id IS NULL);
    own_number bigint;
BEGIN
    IF stepwell_signal.run_id IS NOT NULL AND own_name <> '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'workflow_id stands beside run_id: name the run by one of them';
    END IF;
    INSERT INTO inbox (
        namespace_id, namespace, verb, run_id, workflow_id, name, task_queue, priority, signal_id, token, payload,
        append_time
    ) VALUES (
        namespace_id, stepwell_signal.namespace, 2, stepwell_signal.run_id, own_name,
        inbox_text('signal_name', stepwell_signal.signal_name, TRUE), '', 0,
        inbox_text('signal_id', stepwell_signal.signal_id, FALSE), 0, inbox_payload('payload', stepwell_signal.payload),
        clock_timestamp()
    ) RETURNING number INTO own_number;
    RETURN own_number;
END
$$;

-- Completes a step of a driven run that is under way, and answers the number under which that waits.
CREATE FUNCTION stepwell_complete_step(
    run_id uuid,
    step_name text,
    result jsonb DEFAULT NULL,
    token bigint DEFAULT 0,
    namespace text DEFAULT 'main'
) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    namespace_id int := inbox_namespace(stepwell_complete_step.namespace);
    own_number bigint;
BEGIN
    IF stepwell_complete_step.run_id IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'run_id is required: a UUID';
    END IF;
    INSERT INTO inbox (
        namespace_id, namespace, verb, run_id, workflow_id, name, task_queue, priority, signal_id, token, payload,
        append_time
    ) VALUES (
        namespace_id, stepwell_complete_step.namespace, 3, stepwell_complete_step.run_id, '',
        inbox_text('step_name', stepwell_complete_step.step_name, TRUE), '', 0, '',
        coalesce(stepwell_complete_step.token, 0), inbox_payload('result', stepwell_complete_step.result),
        clock_timestamp()
    ) RETURNING number INTO own_number;
    RETURN own_number;
END
$$;

-- Who may call them is the operator's to say.
REVOKE ALL ON FUNCTION
    inbox_text (text, text, boolean), inbox_payload (text, jsonb), inbox_namespace (text), inbox_uuid (),
    stepwell_start (text, jsonb, text, text, int, uuid, text), stepwell_signal (text, jsonb, uuid, text, text, text),
    stepwell_complete_step (uuid, text, jsonb, bigint, text)
FROM PUBLIC;
