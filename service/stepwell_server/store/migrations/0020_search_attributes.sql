-- Search attributes of runs, open and ended alike: a row a name, so that a patch touches only what it names. A run
-- without any has no row.

CREATE TABLE search_attributes (
    run_key bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    namespace_id int NOT NULL,
    kind smallint NOT NULL,             -- model.search_attributes.AttributeKind
    text_value text COLLATE "C",        -- of text, and of flags: true or false
    number_value numeric,               -- of integers and of other numbers
    time_value timestamptz,
    PRIMARY KEY (run_key, name)
);
CREATE INDEX search_attributes_text_idx ON search_attributes (namespace_id, name, text_value, run_key)
    WHERE text_value IS NOT NULL;
CREATE INDEX search_attributes_number_idx ON search_attributes (namespace_id, name, number_value, run_key)
    WHERE number_value IS NOT NULL;
CREATE INDEX search_attributes_time_idx ON search_attributes (namespace_id, name, time_value, run_key)
    WHERE time_value IS NOT NULL;
