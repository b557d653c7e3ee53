-- Topics for the code of runs: events that are published once, who waits for them, and which of them runs have had.

-- Numbers of events. Those of one topic are drawn under a lock that is held until they are committed, so that they are
-- seen in their order.
CREATE SEQUENCE topic_numbers;

-- Events that are on their way to those who waited, or are kept for those who will.
CREATE TABLE topic_events (
    namespace_id int NOT NULL,
    topic text NOT NULL,
    number bigint NOT NULL,
    publish_time timestamptz NOT NULL,
    retain_time timestamptz,            -- until when later waits get it; none: they do not
    is_delivered boolean NOT NULL,      -- all waits from before it have got it
    payload_kind smallint NOT NULL,     -- as in events
    payload bytea,
    attributes bytea,                   -- model.events.Attributes
    PRIMARY KEY (namespace_id, topic, number)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX topic_events_number_idx ON topic_events (number) WHERE NOT is_delivered;
CREATE INDEX topic_events_retain_idx ON topic_events (retain_time) WHERE is_delivered;

-- Open steps that wait for an event of a topic.
CREATE TABLE topic_waits (
    run_key bigint NOT NULL,
    ordinal int NOT NULL,
    namespace_id int NOT NULL,
    topic text NOT NULL,
    after_number bigint NOT NULL,       -- the last event of the topic when the wait began
    PRIMARY KEY (run_key, ordinal)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX topic_waits_topic_idx ON topic_waits (namespace_id, topic, run_key, ordinal);

-- The last retained event of a topic that a chain of runs has had, while earlier ones are kept.
CREATE TABLE topic_positions (
    chain_key bigint NOT NULL,          -- the first run of the chain
    topic text NOT NULL,
    number bigint NOT NULL,
    expire_time timestamptz NOT NULL,   -- from when on none of the events up to that one is kept
    PRIMARY KEY (chain_key, topic)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX topic_positions_expire_idx ON topic_positions (expire_time);
