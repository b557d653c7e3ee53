-- For how long runs are kept after their end, and where they are archived.

ALTER TABLE namespaces
    ADD COLUMN retention_seconds double precision,  -- null: for ever
    ADD COLUMN archive_url text NOT NULL DEFAULT '';
