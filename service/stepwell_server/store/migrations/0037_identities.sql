-- Whose a worker's session is, and which queues a worker's key is for. Both tables are small, and no row is rewritten.

ALTER TABLE api_keys ADD COLUMN task_queues text[];    -- names, or beginnings of names with * behind; null: all
ALTER TABLE sessions ADD COLUMN owner text;            -- who opened it; null where nobody was asked who he is
