-- API keys, each as the SHA-256 of a secret that is shown once. What is imported is a hash of somebody else's keys: it
-- is looked up for its importer, and nobody calls with it.

CREATE TABLE api_keys (
    key_id uuid PRIMARY KEY,
    prefix text NOT NULL,
    key_hash text NOT NULL,
    label text NOT NULL,
    role smallint NOT NULL,             -- 0 for an imported key
    namespace_id int,                   -- the only one that it may use, NULL for all
    is_imported boolean NOT NULL,
    create_time timestamptz NOT NULL,
    expire_time timestamptz,
    revoke_time timestamptz,
    use_time timestamptz                -- to about a minute
);
CREATE INDEX api_keys_prefix_idx ON api_keys (prefix);
CREATE UNIQUE INDEX api_keys_imported_idx ON api_keys (key_hash) WHERE is_imported AND revoke_time IS NULL;
