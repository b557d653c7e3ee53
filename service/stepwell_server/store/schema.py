"""The tables as SQLAlchemy knows them, for cold and dynamic statements. A test holds them against the migrations."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

METADATA = MetaData()
_TIME = TIMESTAMP(timezone=True)


def _columns(kind: Any, names: str, *, nullable: bool = False, key: bool = False) -> list[Column[Any]]:  # noqa: ANN401
    return [Column(name, kind, nullable=nullable, primary_key=key) for name in names.split()]


def _bigint(names: str, **options: bool) -> list[Column[Any]]:
    return _columns(BigInteger, names, **options)


def _int(names: str, **options: bool) -> list[Column[Any]]:
    return _columns(Integer, names, **options)


def _smallint(names: str) -> list[Column[Any]]:
    return _columns(SmallInteger, names)


def _text(names: str, **options: bool) -> list[Column[Any]]:
    return _columns(Text, names, **options)


def _uuid(names: str, **options: bool) -> list[Column[Any]]:
    return _columns(Uuid, names, **options)


def _flag(names: str) -> list[Column[Any]]:
    return _columns(Boolean, names)


def _bytes(names: str, **options: bool) -> list[Column[Any]]:
    return _columns(LargeBinary, names, **options)


def _times(names: str, **options: bool) -> list[Column[Any]]:
    return _columns(_TIME, names, **options)


def _run_key(*, key: bool = True) -> list[Column[Any]]:
    return [Column("run_key", BigInteger, nullable=False, primary_key=key, autoincrement=False)]


def _born() -> list[Column[Any]]:
    """What is known of a run when it starts, after its key."""
    return [
        *_int("namespace_id"),
        *_uuid("run_id"),
        *_text("workflow_id type task_queue"),
        *_smallint("priority"),
        *_flag("driven managed"),
        *_bigint("parent_key", nullable=True),
        *_int("parent_ordinal"),
        *_text("correlation_id traceparent tracestate"),
        *_times("create_time"),
        *_times("deadline", nullable=True),
    ]


def _recorded(*, keyed: bool) -> list[Column[Any]]:
    """What is known of a step when it is created; `keyed` where its identity is the primary key."""
    return [
        *_run_key(),
        *_int("ordinal", key=not keyed),
        *_text("scope name", key=keyed),
        *_int("occurrence", key=keyed),
        *_text("key", key=keyed),
        *_smallint("kind"),
        *_text("type task_queue"),
        *_smallint("priority"),
        *_text("wait_name", nullable=True),
        *_bigint("seq"),
        *_bigint("child_key", nullable=True),
        *_times("create_time"),
        *_int("input_event"),
    ]


def _job_born() -> list[Column[Any]]:
    """What open and ended jobs have alike, up to their attempts."""
    return [
        *_bigint("job_key", key=True),
        *_int("namespace_id"),
        *_uuid("job_id"),
        *_text("unique_key type task_queue"),
        *_smallint("priority"),
        *_text("correlation_id traceparent tracestate"),
        *_times("create_time"),
        Column("retention_seconds", Double, nullable=False),
        *_times("schedule_time"),
        *_smallint("state"),
        *_int("attempt"),
    ]


NAMESPACES = Table(
    "namespaces",
    METADATA,
    Column("namespace_id", Integer, primary_key=True),
    *_text("name"),
    *_times("create_time"),
    Column("retention_seconds", Double, nullable=True),
    *_text("archive_url"),
)
QUEUE_SETTINGS = Table(
    "queue_settings",
    METADATA,
    *_int("namespace_id", key=True),
    *_text("task_queue", key=True),
    *_bigint("version"),
    *_times("update_time"),
    Column("rate_per_second", Double, nullable=True),
    *_int("rate_burst", nullable=True),
    *_times("spent_until", nullable=True),
    Column("aging_seconds", Double, nullable=True),
    *_text("fairness_weights", nullable=True),
    Column("key_rate_per_second", Double, nullable=True),
    *_int("key_rate_burst", nullable=True),
)
KEY_BUCKETS = Table(
    "key_buckets",
    METADATA,
    *_int("namespace_id", key=True),
    *_text("task_queue fairness_key", key=True),
    *_times("spent_until"),
    Column("fill_seconds", Double, nullable=False),
)
API_KEYS = Table(
    "api_keys",
    METADATA,
    *_uuid("key_id", key=True),
    *_text("prefix key_hash label"),
    *_smallint("role"),
    *_int("namespace_id", nullable=True),
    *_flag("is_imported"),
    *_times("create_time"),
    *_times("expire_time revoke_time use_time", nullable=True),
    *_columns(ARRAY(Text), "task_queues", nullable=True),
)
RUN_IDS = Table(
    "run_ids",
    METADATA,
    *_uuid("run_id", key=True),
    *_int("namespace_id", key=True),
    *_run_key(key=False),
    *_bytes("request_hash", nullable=True),
)
WORKFLOW_IDS = Table(
    "workflow_ids",
    METADATA,
    *_text("workflow_id", key=True),
    *_int("namespace_id", key=True),
    *_run_key(key=False),
    *_bigint("turn"),
)
RUNS = Table(
    "runs",
    METADATA,
    *_run_key(),
    *_born(),
    *_smallint("phase"),
    *_bigint("version"),
    *_int("last_event last_step last_signal open_steps order_count"),
    *_bytes("order_hash"),
    *_bigint("grants"),
    *_uuid("session_id", nullable=True),
    *_smallint("returns"),
    *_flag("queued dirty"),
    *_text("owner_id"),
    *_times("lease_expire_time", nullable=True),
    *_text("pause_reason cancel_reason", nullable=True),
    *_times("cancel_time", nullable=True),
    *_text("build_id"),
    *_times("update_time"),
    *_times("suspend_time wake_time", nullable=True),
    *_bytes("details", nullable=True),
)
CLOSED_RUNS = Table(
    "closed_runs",
    METADATA,
    *_run_key(),
    *_born(),
    *_smallint("phase"),
    *_bigint("version"),
    *_int("last_event last_step last_signal order_count"),
    *_bytes("order_hash"),
    *_bigint("grants"),
    *_text("cancel_reason", nullable=True),
    *_times("cancel_time", nullable=True),
    *_text("build_id"),
    *_times("end_time"),
    *_int("end_event"),
    *_bytes("details", nullable=True),
)
STEPS = Table(
    "steps",
    METADATA,
    *_recorded(keyed=False),
    *_smallint("state"),
    *_int("attempt"),
    *_bigint("grants"),
    *_uuid("session_id", nullable=True),
    *_smallint("returns"),
    *_text("owner_id"),
    *_times("start_time wake_time", nullable=True),
    *_flag("cancel_requested"),
    *_bytes("details", nullable=True),
    *_flag("managed"),
)
HEARTBEATS = Table(
    "heartbeats",
    METADATA,
    *_run_key(),
    *_int("ordinal", key=True),
    *_times("beat_time"),
    *_bytes("details", nullable=True),
)
CLOSED_STEPS = Table(
    "closed_steps",
    METADATA,
    *_recorded(keyed=True),
    *_smallint("state"),
    *_int("attempt"),
    *_bigint("grants"),
    *_times("start_time", nullable=True),
    *_times("end_time"),
    *_int("end_event"),
    *_flag("timed_out"),
    *_bytes("details", nullable=True),
)
EVENTS = Table(
    "events",
    METADATA,
    *_run_key(),
    *_int("number", key=True),
    *_smallint("type origin"),
    *_int("step_ordinal"),
    *_times("event_time"),
    *_smallint("payload_kind"),
    *_bytes("payload", nullable=True),
    *_text("caller_type", nullable=True),
    *_bigint("caller_seq"),
    *_bytes("attributes", nullable=True),
)
CALLER_SEQS = Table("caller_seqs", METADATA, *_run_key(), *_bigint("caller_seq", key=True), *_int("number"))
SCOPES = Table("scopes", METADATA, *_run_key(), *_text("scope", key=True), *_int("order_count"), *_bytes("order_hash"))
SIGNALS = Table(
    "signals",
    METADATA,
    *_run_key(),
    *_int("ordinal", key=True),
    *_text("name"),
    *_int("event"),
    *_text("signal_id", nullable=True),
    *_flag("consumed"),
    *_times("receive_time"),
    *_bigint("chain_key"),
)
TASKS = Table(
    "tasks",
    METADATA,
    *_run_key(),
    *_int("ordinal", key=True),
    *_int("namespace_id"),
    *_text("task_queue"),
    *_smallint("kind"),
    *_text("type"),
    *_smallint("rank"),
    *_times("ready_time"),
    *_text("build_id"),
    *_text("fairness_key", nullable=True),
)
SESSIONS = Table(
    "sessions",
    METADATA,
    *_uuid("session_id", key=True),
    *_int("namespace_id"),
    *_text("worker_id"),
    *_times("register_time"),
    *_bytes("hello"),
    *_times("expire_time"),
    *_columns(ARRAY(Text), "task_queues workflow_types activity_types"),
    *_text("build_id identity"),
    *_text("owner", nullable=True),
)
WORKERS = Table(
    "workers",
    METADATA,
    *_text("worker_id", key=True),
    *_int("namespace_id", key=True),
    *_text("identity task_queue"),
    *_columns(ARRAY(Text), "workflow_types activity_types"),
    *_int("max_concurrent_workflows max_concurrent_activities active_tasks"),
    *_times("register_time heartbeat_time"),
    *_flag("condemned"),
)
REQUESTS = Table(
    "requests",
    METADATA,
    *_text("request_id", key=True),
    *_int("namespace_id", key=True),
    *_text("method", key=True),
    *_bytes("body_hash answer"),
    *_times("request_time"),
)
MAIL = Table("mail", METADATA, *_uuid("mail_id", key=True), *_run_key(key=False), *_times("post_time"), *_bytes("body"))
WATCHERS = Table(
    "watchers",
    METADATA,
    *_run_key(),
    *_int("ordinal", key=True),
    *_int("namespace_id"),
    *_text("topic step_name"),
    *_times("create_time"),
    *_times("deadline", nullable=True),
    *_bytes("data", nullable=True),
)
TOPIC_EVENTS = Table(
    "topic_events",
    METADATA,
    *_int("namespace_id", key=True),
    *_text("topic", key=True),
    *_bigint("number", key=True),
    *_times("publish_time"),
    *_times("retain_time", nullable=True),
    *_flag("is_delivered"),
    *_smallint("payload_kind"),
    *_bytes("payload attributes", nullable=True),
)
TOPIC_WAITS = Table(
    "topic_waits",
    METADATA,
    *_run_key(),
    *_int("ordinal", key=True),
    *_int("namespace_id"),
    *_text("topic"),
    *_bigint("after_number"),
)
TOPIC_POSITIONS = Table(
    "topic_positions",
    METADATA,
    *_bigint("chain_key", key=True),
    *_text("topic", key=True),
    *_bigint("number"),
    *_times("expire_time"),
)
USER_TASKS = Table(
    "user_tasks",
    METADATA,
    *_run_key(),
    *_int("ordinal", key=True),
    *_int("namespace_id"),
    *_uuid("task_id run_id"),
    *_text("workflow_id step_name title description schema_type"),
    *_text("assigned_role_id assigned_user_id assigned_group_id"),
    *_smallint("priority"),
    *_times("due_time"),
    *_text("signal_name"),
    *_smallint("status"),
    *_times("create_time update_time"),
    *_text("claimed_by"),
    *_times("claim_time", nullable=True),
    *_text("completed_by"),
    *_times("complete_time", nullable=True),
    *_bigint("version"),
    *_int("input_event output_event"),
)
RUN_TASKS = Table(
    "run_tasks",
    METADATA,
    *_run_key(),
    *_int("namespace_id"),
    *_text("task_queue"),
    *_flag("is_ready"),
    *_times("ready_time"),
    *_text("owner_id", nullable=True),
    *_times("claim_time", nullable=True),
)
RUN_ORIGINS = Table(
    "run_origins",
    METADATA,
    *_run_key(),
    *_int("namespace_id"),
    *_text("title trigger_key idempotency_key"),
    *_uuid("source_run_id", nullable=True),
)
DISPATCHES = Table(
    "dispatches",
    METADATA,
    *_int("namespace_id", key=True),
    *_uuid("run_id", key=True),
    *_text("step_name", key=True),
    *_times("dispatch_time"),
    *_text("job_id"),
    *_times("claim_time", nullable=True),
)
IDEMPOTENCY_KEYS = Table(
    "idempotency_keys",
    METADATA,
    *_int("namespace_id", key=True),
    *_text("type trigger_key idempotency_key", key=True),
    *_uuid("run_id"),
    *_times("register_time"),
)
RUN_CALLS = Table(
    "run_calls",
    METADATA,
    *_uuid("call_id", key=True),
    *_run_key(key=False),
    *_smallint("kind"),
    *_text("name update_id"),
    *_bytes("input", nullable=True),
    *_times("expire_time"),
    *_bytes("answer", nullable=True),
)
PUBLISHED = Table(
    "published",
    METADATA,
    *_run_key(),
    *_text("name", key=True),
    *_bytes("payload", nullable=True),
    *_times("publish_time"),
)
SEARCH_ATTRIBUTES = Table(
    "search_attributes",
    METADATA,
    *_run_key(),
    *_text("name", key=True),
    *_int("namespace_id"),
    *_smallint("kind"),
    *_text("text_value", nullable=True),
    *_columns(Numeric, "number_value", nullable=True),
    *_times("time_value", nullable=True),
)
SNAPSHOTS = Table(
    "snapshots",
    METADATA,
    *_run_key(),
    *_int("event_seq", key=True),
    *_bytes("state", nullable=True),
    *_times("create_time"),
)
JOB_IDS = Table(
    "job_ids",
    METADATA,
    *_uuid("job_id", key=True),
    *_int("namespace_id", key=True),
    *_bigint("job_key"),
    *_bytes("request_hash", nullable=True),
)
UNIQUE_JOBS = Table(
    "unique_jobs", METADATA, *_text("unique_key", key=True), *_int("namespace_id", key=True), *_bigint("job_key turn")
)
JOBS = Table(
    "jobs",
    METADATA,
    *_job_born(),
    *_bigint("grants"),
    *_uuid("session_id", nullable=True),
    *_smallint("returns"),
    *_text("owner_id"),
    *_times("start_time wake_time", nullable=True),
    *_text("cancel_reason", nullable=True),
    *_times("cancel_time", nullable=True),
    *_int("retries"),
    *_bytes("details", nullable=True),
)
CLOSED_JOBS = Table(
    "closed_jobs",
    METADATA,
    *_job_born(),
    *_bigint("grants"),
    *_times("start_time", nullable=True),
    *_text("cancel_reason", nullable=True),
    *_times("cancel_time", nullable=True),
    *_int("retries"),
    *_bytes("details", nullable=True),
    *_times("end_time expire_time"),
    *_bytes("failure result", nullable=True),
    *_text("owner_id"),
)
JOB_INPUTS = Table("job_inputs", METADATA, *_bigint("job_key", key=True), *_bytes("input"))
BATCHES = Table(
    "batches",
    METADATA,
    *_uuid("batch_id", key=True),
    *_bigint("committer position"),
    *_times("commit_time"),
    *_columns(ARRAY(BigInteger), "ended"),
    *_columns(ARRAY(BigInteger), "notices", nullable=True),
)
LEADERSHIPS = Table(
    "leaderships", METADATA, *_text("name", key=True), *_text("holder"), *_bigint("epoch"), *_times("expire_time")
)
SCHEDULES = Table(
    "schedules",
    METADATA,
    *_uuid("schedule_id", key=True),
    *_int("namespace_id"),
    *_text("name cron time_zone"),
    *_columns(Double, "jitter_seconds"),
    *_times("start_time end_time", nullable=True),
    *_smallint("overlap_policy"),
    *_columns(Double, "catchup_seconds"),
    *_bytes("run"),
    *_text("pause_reason", nullable=True),
    *_times("create_time update_time"),
    *_bigint("version"),
    *_times("next_time next_nominal", nullable=True),
    *_int("waiting"),
    *_times("last_time", nullable=True),
    *_text("last_workflow_id"),
    *_uuid("last_run_id", nullable=True),
    *_bigint("fired skipped missed"),
    *_text("last_error"),
)
SCHEDULE_FIRINGS = Table(
    "schedule_firings",
    METADATA,
    *_uuid("schedule_id", key=True),
    *_times("nominal_time", key=True),
    *_smallint("overlap_policy"),
)
SCHEDULE_RUNS = Table(
    "schedule_runs",
    METADATA,
    *_uuid("schedule_id", key=True),
    *_text("workflow_id", key=True),
    *_times("note_time"),
)
DEFINITIONS = Table(
    "definitions",
    METADATA,
    *_bigint("definition_key", key=True),
    *_int("namespace_id"),
    *_uuid("definition_id"),
    *_text("code"),
    *_int("version"),
    *_text("name description"),
    *_flag("active"),
    *_bigint("revision"),
    *_times("create_time update_time"),
    *_bytes("metadata body", nullable=True),
)
RUN_DATA = Table("run_data", METADATA, *_run_key(), *_text("name", key=True), *_bytes("payload"))
CONCURRENCY_SLOTS = Table(
    "concurrency_slots",
    METADATA,
    *_run_key(),
    *_int("namespace_id"),
    *_text("name line key"),
    *_int("maximum_runs"),
    *_smallint("strategy"),
    *_times("arrive_time"),
    *_times("admit_time", nullable=True),
    *_flag("gives_way"),
)
CONCURRENCY_ROUNDS = Table(
    "concurrency_rounds",
    METADATA,
    *_int("namespace_id", key=True),
    *_text("name", key=True),
    *_text("last_key"),
)
RUN_DEBOUNCES = Table("run_debounces", METADATA, *_run_key(), *_int("namespace_id"), *_text("type key"))
RUN_DEFINITIONS = Table("run_definitions", METADATA, *_run_key(), *_bigint("definition_key"))


def _inbox_columns() -> list[Column[Any]]:
    return [
        *_bigint("number", key=True),
        *_int("namespace_id"),
        *_text("namespace"),
        *_smallint("verb"),
        *_uuid("run_id", nullable=True),
        *_text("workflow_id name task_queue"),
        *_smallint("priority"),
        *_text("signal_id"),
        *_bigint("token"),
        *_bytes("payload", nullable=True),
        *_times("append_time"),
    ]


INBOX = Table("inbox", METADATA, *_inbox_columns())
INBOX_LIMITS = Table(
    "inbox_limits",
    METADATA,
    Column("is_only", Boolean, nullable=False, primary_key=True),
    *_bigint("id_bytes payload_bytes"),
)
DEAD_LETTERS = Table("dead_letters", METADATA, *_inbox_columns(), *_text("reason message"), *_times("refuse_time"))
