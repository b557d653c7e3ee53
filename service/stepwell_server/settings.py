"""The service's settings: one object, read from STEPWELL_* variables (nested ones as STEPWELL_LIMITS__PAGE_ITEMS)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from stepwell_server import postgres_urls
from stepwell_server.trust import CertificateRule, Issuer

Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65_535)]


# An address holds a password, and so is shown nowhere.
PostgresUrl = Annotated[str, AfterValidator(postgres_urls.plain)]


def _default_dev_data_dir() -> Path:
    """Root's Postgres runs as another account, which cannot enter root's home."""
    if os.getuid() == 0:
        return Path("/var/lib/stepwell/dev")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "stepwell/dev"


class Limits(BaseModel):
    """What one request, run or page may measure; named in the error of who goes beyond."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id_bytes: Count = 255
    """Ids and names."""
    payload_bytes: Count = 2 * 1024 * 1024
    """One payload."""
    message_bytes: Count = 4 * 1024 * 1024
    """One gRPC message."""
    message_items: Count = 256
    """Items of one message: an SDK sends more as several."""
    message_fields: Count = 250_000
    """Fields of one message with those of all messages in it; they are counted where it has more than 64 KiB."""
    metadata_bytes: Count = 16 * 1024
    """Metadata of one call: names and values, and 32 bytes for each."""
    streams_per_key: Count = 4_000
    """Streams that may be open at this replica with one key; without any, over one connection."""
    stream_messages_per_second: Count = 5_000
    """Messages that are read of one stream in a second; a second's worth may come at once. More has to wait."""
    stream_items: Count = 1_000
    """Reports and heartbeats of one stream that are not answered yet, `outbox_messages` at most; more are not read."""
    open_steps: Count = 20_000
    """Open steps of one run."""
    run_events: Annotated[int, Field(gt=0, lt=1 << 17)] = 100_000
    """History events of one run; below 2^17, the ordinals that a number has room for."""
    search_attributes: Count = 32
    """Search attributes of one run."""
    search_attribute_bytes: Count = 8 * 1024
    """All search attributes of one run together."""
    user_task_changes: Count = 100
    """Claims, returns and changes of one user task that history tells of. Later ones happen, and it does not."""
    page_items: Count = 50
    """Items of a page for which no size is asked."""
    page_items_maximum: Count = 1_000
    """Items of any page."""
    page_skip: Count = 10_000
    """Items that a list may be asked to skip."""
    topic_retain_seconds: Seconds = 30 * 86_400.0
    """How long an event of a topic may be kept for waits that begin later."""
    commit_writes: Count = 100
    """Writes of one commit."""
    set_runs: Count = 256
    """Runs that one set command may change."""


class Settings(BaseSettings):
    """Everything that an operator may choose. Durations are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="STEPWELL_",
        env_nested_delimiter="__",
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    database_url: Annotated[PostgresUrl | None, Field(repr=False)] = None
    """Postgres, reached directly: the hot path and the leader's lock need sessions of their own. `serve` needs it."""
    database_url_file: Path | None = None
    """A file that holds `database_url`, in its place; read anew for each connection, so that a password may change."""
    pool_url: Annotated[PostgresUrl | None, Field(repr=False)] = None
    """The same database for cold calls, which may go through a pooler; by default `database_url`."""
    pool_url_file: Path | None = None
    """A file that holds `pool_url`, in its place; read anew for each connection."""
    # pydantic keeps the name `schema` for itself.
    database_schema: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$", alias="STEPWELL_SCHEMA")] = "stepwell"
    """The Postgres schema that holds everything (STEPWELL_SCHEMA); two deployments in one database need two."""
    pool_connections: Count = 8
    """Connections for cold calls."""
    committers: Count = 1
    """Committers, each with a connection of its own; runs are spread over them by key."""
    connect_seconds: Seconds = 5.0
    """Time to reach the database before an attempt counts as failed."""
    reconnect_seconds_maximum: Seconds = 5.0
    """Longest pause between two attempts to reach the database."""
    statement_seconds: Seconds = 10.0
    """Longest statement of a cold call."""
    lock_seconds: Seconds = 1.0
    """Longest wait for a lock in the database."""
    idle_transaction_seconds: Seconds = 5.0
    """After this, Postgres ends a transaction of a frozen committer and frees its locks."""

    host: str = "127.0.0.1"
    """Address on which gRPC is served."""
    port: Port = 7233
    """Port on which gRPC is served; 0 takes a free one."""
    tls_certificate_file: Path | None = None
    """The server's certificate in PEM, and behind it what signed it up to a CA that clients know; with it the gRPC
    port speaks TLS, 1.2 or newer, and nothing else. Read again while the server runs, as are the next two."""
    tls_key_file: Path | None = None
    """The certificate's private key in PEM, without a pass phrase."""
    tls_client_ca_file: Path | None = None
    """CAs in PEM: clients must show a certificate that one of them signed."""
    tls_client_certificates: Literal["require", "optional"] = "require"
    """Where clients must show a certificate, if there are CAs for them: on the gRPC port, or only on a second one."""
    tls_client_port: Port = 7234
    """With `optional`: the second port, on which clients must show a certificate; 0 takes a free one."""
    tls_reload_seconds: Seconds = 10.0
    """How often the files of TLS are looked at."""
    health_host: str = "127.0.0.1"
    """Address on which health is served in the clear."""
    health_port: Port | None = None
    """Port that answers nothing but health, in the clear: for probes that do not speak TLS. None serves none."""
    metrics_host: str = "127.0.0.1"
    """Address on which Prometheus metrics are served."""
    metrics_port: Port | None = None
    """Port of the metrics; none serves none."""
    require_keys: bool = True
    """Whether callers must show who they are. `dev` asks nobody unless this is set."""
    key_seconds: Seconds = 5.0
    """For how long what is known of an API key counts: a key that is revoked is taken no longer than that."""
    jwt_issuers: tuple[Issuer, ...] = ()
    """Whose tokens are taken beside API keys, as JSON: see docs/security.md."""
    certificate_rules: tuple[CertificateRule, ...] = ()
    """What certificates of clients allow, as JSON: see docs/security.md. It takes TLS with a CA for clients."""
    audit: Literal["off", "admin", "changes", "all"] = "admin"
    """Which calls the audit log tells of: what admins and operators do and who is refused as unknown or may not; also
    all other changes; or all calls."""
    audit_file: Path | None = None
    """The file that the audit log is written to; none: it goes with the other logs."""
    open_reflection: bool = False
    """Whether reflection answers without a key, where calls need one. Health always does."""
    unready_seconds: Annotated[float, Field(ge=0)] = 0.0
    """At shutdown, how long calls are still taken while health says NOT_SERVING: for balancers that ask for it."""
    shutdown_seconds: Seconds = 30.0
    """Time that running calls and streams get to end at shutdown, after that."""

    connection_seconds: Seconds = 1_800.0
    """After so long clients are asked to connect anew, and workers to move, so that new replicas get their share."""

    session_seconds: Seconds = 30.0
    """A worker session without a sign of life for so long loses its leases."""
    heartbeat_seconds: Seconds = 10.0
    """How often a worker is told to beat."""
    ack_seconds: Seconds = 5.0
    """An assignment not acknowledged for so long is given to another."""
    max_returns: Annotated[int, Field(gt=0, le=30_000)] = 10
    """How often in a row a task may come back: then an activity spends an attempt, and a run is paused."""
    ping_seconds: Seconds = 20.0
    """A stream that was silent for so long is pinged."""
    outbox_messages: Count = 1_000
    """Messages that may wait for one slow stream."""
    resident_advance_seconds: Seconds = 1.0
    """A resident run that can go on and finds no slot for so long is evicted."""

    calls_at_once: Count = 10_000
    """Unary calls that may be under way, three quarters of them with one key; more are refused."""
    streams_at_once: Count = 10_000
    """Streams that may be open; more are refused."""
    committer_queue_commands: Count = 20_000
    """Commands that may wait for one committer, three quarters of them of one namespace; more are refused."""
    committer_queue_bytes: Count = 64 * 1024 * 1024
    """Payload bytes that may wait for one committer, three quarters of them of one namespace; more are refused."""
    committer_batch_commands: Count = 500
    """Commands of one transaction."""
    committer_batch_bytes: Count = 8 * 1024 * 1024
    """Payload bytes of one transaction."""

    dispatch_poll_seconds: Seconds = 1.0
    """How often a queue is looked at when no hint came; a lost hint costs so much."""
    mail_poll_seconds: Seconds = 0.5
    """How often mail is looked for when no hint came."""
    inbox_poll_seconds: Seconds = 0.2
    """How often the leader looks for what programs asked for in their own transactions; more often while some comes."""
    dead_letter_seconds: Seconds = 7 * 86_400.0
    """How long what was asked for so and refused is kept."""
    watch_poll_seconds: Seconds = 1.0
    """How often watches look for changes when no hint came."""
    queue_settings_seconds: Seconds = 5.0
    """How often a replica looks at what is set for task queues, beside hints."""
    clock_align_seconds: Seconds = 30.0
    """How often the clock is compared with the database's."""
    schema_check_seconds: Seconds = 5.0
    """How often a server that is not ready for the schema looks again."""

    leader_probe_seconds: Seconds = 1.0
    """How often the leader proves its lock, and others try for it."""
    leader_idle_seconds: Seconds = 4.0
    """Postgres drops a leader that was silent for so long."""
    topic_poll_seconds: Seconds = 0.5
    """How often the leader looks for events of topics that are on their way, when no hint came."""
    slot_poll_seconds: Seconds = 1.0
    """How often the leader looks for runs that wait though a slot of their concurrency limit is free."""
    timer_poll_seconds: Seconds = 0.5
    """How often the leader looks for due timers, when it does not know of an earlier one."""
    expiry_poll_seconds: Seconds = 2.0
    """How often the leader looks for expired sessions and leases."""
    schedule_poll_seconds: Seconds = 1.0
    """How often the leader looks for due schedules."""
    timeout_poll_seconds: Seconds = 1.0
    """How often the leader looks for timeouts and deadlines."""
    backlog_poll_seconds: Seconds = 5.0
    """How often the leader counts what waits, for the metrics; not at all where none are served."""
    job_retention_seconds: Annotated[float, Field(ge=0)] = 7 * 86_400.0
    """How long a job is kept after its end, unless it was started with a retention of its own."""
    archive_folder: Path | None = None
    """The folder of the server in which archives may be written by `file:///` URLs; none: no such URL is taken."""
    retention_poll_seconds: Seconds = 60.0
    """How often the leader deletes what is past its retention and makes partitions ahead."""

    slow_seconds: Annotated[float, Field(ge=0)] = 1.0
    """What takes longer is told in the log: a call, a batch, a statement, a round of a loop; 0: nothing is."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important messages to log."""
    log_format: Literal["json", "console"] = "json"
    """One JSON object a line, or text for a person."""

    dev_data_dir: Path = Field(default_factory=_default_dev_data_dir)
    """Where `dev` keeps its Postgres."""
    test_clock: bool = False
    """Whether callers may move the clock. For tests only."""

    limits: Limits = Limits()
    """What requests, runs and pages may measure."""

    def direct_url(self) -> str | None:
        """The address of Postgres itself as it is now. Raises ValueError if its file has none."""
        return postgres_urls.read(self.database_url_file) if self.database_url_file else self.database_url

    def cold_url(self) -> str | None:
        """The address for cold calls as it is now. Raises ValueError if its file has none."""
        return (postgres_urls.read(self.pool_url_file) if self.pool_url_file else self.pool_url) or self.direct_url()

    @property
    def has_cold_url(self) -> bool:
        """Whether cold calls have an address of their own."""
        return bool(self.pool_url or self.pool_url_file)

    @model_validator(mode="after")
    def _read_files(self) -> Settings:
        for name in ("database_url", "pool_url"):
            if getattr(self, name) and getattr(self, f"{name}_file"):
                raise ValueError(f"{name} and {name}_file are two ways to say the same: give one")
        self.direct_url()
        self.cold_url()
        return self

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Settings:
        pairs = (
            ("heartbeat_seconds", "session_seconds"),
            ("ack_seconds", "session_seconds"),
            ("leader_probe_seconds", "leader_idle_seconds"),
            ("committer_batch_commands", "committer_queue_commands"),
            ("committer_batch_bytes", "committer_queue_bytes"),
        )
        for smaller, larger in pairs:
            if getattr(self, smaller) >= getattr(self, larger):
                raise ValueError(f"{smaller} must be less than {larger}")
        if len({each.issuer for each in self.jwt_issuers}) < len(self.jwt_issuers):
            raise ValueError("jwt_issuers names an issuer twice: one may have several audiences")
        return self

    @model_validator(mode="after")
    def _refuse_half_of_tls(self) -> Settings:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("STEPWELL_TLS_CERTIFICATE_FILE and STEPWELL_TLS_KEY_FILE go together: set both or neither")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError(
                "STEPWELL_TLS_CLIENT_CA_FILE needs STEPWELL_TLS_CERTIFICATE_FILE: without it there is no TLS"
            )
        if self.tls_client_certificates == "optional" and self.tls_client_ca_file is None:
            raise ValueError("STEPWELL_TLS_CLIENT_CERTIFICATES=optional needs STEPWELL_TLS_CLIENT_CA_FILE")
        return self
