-- Debounced starts: open runs that wait until no further start of their key comes.

CREATE TABLE run_debounces (
    run_key bigint PRIMARY KEY,
    namespace_id int NOT NULL,
    type text NOT NULL,
    key text NOT NULL,
    UNIQUE (namespace_id, type, key)
);
