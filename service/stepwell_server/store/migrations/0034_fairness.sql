-- Keys that take turns in queues which are told so.

ALTER TABLE tasks ADD COLUMN fairness_key text COLLATE "C";         -- null, or empty in a queue of turns: none
ALTER TABLE queue_settings ADD COLUMN fairness_weights text;        -- by key, as JSON; null: no turns are taken
