-- Definitions: workflows as data, in versions; and which run follows which.

CREATE TABLE definitions (
    definition_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace_id int NOT NULL,
    definition_id uuid NOT NULL,
    code text NOT NULL,
    version int NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    active boolean NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    metadata bytea,                     -- model.payloads.Payload; null for the null value, as below
    body bytea,
    UNIQUE (namespace_id, code, version),
    UNIQUE (namespace_id, definition_id)
);

-- The definition that a run follows, open or ended. Whoever inserts one holds the definition's row meanwhile.
CREATE TABLE run_definitions (
    run_key bigint PRIMARY KEY,
    definition_key bigint NOT NULL
);
CREATE INDEX run_definitions_definition_idx ON run_definitions (definition_key, run_key);
