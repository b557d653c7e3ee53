"""What a command is: a value that names one run, or one job, and decides what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from stepwell_server.refusals import Refusal

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.engine.job_change import JobChange
    from stepwell_server.engine.wishes import Missing
    from stepwell_server.model.jobs import JobRef
    from stepwell_server.model.runs import RunRef


class Command(Protocol):
    """A change of exactly one run."""

    @property
    def ref(self) -> RunRef | JobRef:
        """Which run, or which job if the command is one that jobs take, too."""
        ...

    def wants(self) -> Missing | None:
        """What of the run the decision surely needs; it may ask for more by raising Missing."""
        ...

    def decide(self, change: Change) -> object:
        """Changes the run and answers the caller, or raises a Refusal, or Missing. Pure but for `change`."""
        ...


class JobCommand(Protocol):
    """A change of exactly one job. What is decided on activities is a command of runs and of jobs."""

    @property
    def ref(self) -> JobRef:
        """Which job."""
        ...

    def wants(self) -> Missing | None:
        """What of the job the decision surely needs."""
        ...

    def decide(self, change: JobChange) -> object:
        """Changes the job and answers the caller, or raises a Refusal, or Missing. Pure but for `change`."""
        ...


class Refused(msgspec.Struct, frozen=True, gc=False):
    """An answer that refuses the caller although the run was changed: what was decided is written all the same."""

    refusal: Refusal
