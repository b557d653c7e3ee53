"""What was asked for, and the times that follow from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from stepwell.torture.faults import Kind

# How often a worker is told to beat, and how long it has to acknowledge, as parts of a session's time.
_BEAT, _ACK = 4, 3


class TortureError(Exception):
    """It can't begin, or not go on; the message says what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A torture run. Times are in seconds.

    `workers` are commands, each of which is started `workers_each` times. Without `address` a service is started:
    `replicas` of it on one Postgres, whose worker sessions last `session_seconds`. Load and faults last `seconds`, then
    what is left has `settle_seconds` to end. There are `runs_per_second` starts at most, and never more than
    `open_runs` that have not ended; their effects take `effect_seconds` at most. `fault_pause` is the mean time from
    one fault to the next. All is chosen by `seed`. Only `kinds` of faults are done. `folder` gets logs, ledgers and the
    database.
    """

    workers: tuple[str, ...]
    folder: Path
    seed: int
    address: str = ""
    namespace: str = "main"
    api_key: str = ""
    seconds: float = 600.0
    settle_seconds: float = 120.0
    runs_per_second: float = 4.0
    open_runs: int = 60
    workers_each: int = 2
    replicas: int = 2
    fault_pause: float = 3.0
    session_seconds: float = 6.0
    effect_seconds: float = 3.0
    kinds: frozenset[Kind] = frozenset(Kind)

    def __post_init__(self) -> None:
        """Refuses what can't be."""
        if not self.workers:
            raise TortureError("no worker: name the command of a conformance worker by --worker (docs/torture.md)")


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """What a service promises of its workers' sessions; see docs/protocol.md."""

    session: float
    beat: float

    @classmethod
    def of(cls, session_seconds: float) -> Times:
        """Those of a service that `settings` set up."""
        return cls(session_seconds, session_seconds / _BEAT)

    @property
    def settings(self) -> dict[str, str]:
        """A service's own settings to match."""
        return {
            "SESSION_SECONDS": f"{self.session:g}",
            "HEARTBEAT_SECONDS": f"{self.beat:g}",
            "ACK_SECONDS": f"{self.session / _ACK:g}",
            "EXPIRY_POLL_SECONDS": "0.5",
            "LEADER_PROBE_SECONDS": "0.5",
            "RECONNECT_SECONDS_MAXIMUM": "1",
            "SCHEMA_CHECK_SECONDS": "0.5",
            "SHUTDOWN_SECONDS": "10",
            "REQUIRE_KEYS": "false",
        }

    @property
    def shortest_expiry(self) -> float:
        """How soon after a worker fell silent its session may be over.

        Its latest sign of life may have been a beat old and half a beat unwritten; a second is for the machine.
        """
        return max(0.0, self.session - 1.5 * self.beat - 1.0)
