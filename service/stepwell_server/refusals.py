"""What a refusal is made of; `errors` declares them all.

A declaration is a class under the base of its canonical code: the class's name gives the reason, its docstring the
message, its fields the metadata. Fields are given by keyword; a message is rendered only when somebody reads it.

    class RunNotFound(NotFound):
        "Run {run_id} does not exist in namespace {namespace}."

        namespace: str
        run_id: str
"""

from __future__ import annotations

import inspect
import re
from enum import IntEnum
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable


class Code(IntEnum):
    """The canonical codes that refusals use, by their numbers on the wire."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


REASONS: dict[str, type[Refusal]] = {}
# Fields that travel as details of their own, not as metadata.
_DETAILS = frozenset({"retry_seconds", "violations"})


@dataclass_transform(kw_only_default=True)
class Refusal(Exception):  # noqa: N818 - an ordinary answer, and every subclass is named for its fact
    """The root of all declared errors."""

    code: ClassVar[Code]
    reason: ClassVar[str] = ""
    template: ClassVar[str] = ""
    fields: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, object]] = {}
    # The part of a request that was refused, if it has several; see `placed`.
    at = ""

    def __init_subclass__(cls, code: Code | None = None) -> None:
        """Turns the declaration into a reason, a template and a constructor."""
        own = {name: cls.__dict__.get(name, _REQUIRED) for name in _declared(cls)}
        cls._defaults = defaults = {**cls._defaults, **own}
        cls.fields = tuple(defaults)
        cls.__init__ = _constructor(defaults)  # type: ignore[method-assign]
        if code is not None:
            cls.code = code
        else:
            _register(cls)

    @property
    def message(self) -> str:
        """What is wrong, for a person."""
        told = self.template.format_map(self.__dict__)
        return f"{self.at}: {told}" if self.at else told

    @property
    def metadata(self) -> dict[str, str]:
        """The facts, for a program."""
        facts = {name: str(getattr(self, name)) for name in self.fields if name not in _DETAILS}
        return {**facts, "at": self.at} if self.at else facts

    def __str__(self) -> str:
        """The message."""
        return self.message


_REQUIRED = object()


def _declared(cls: type[Refusal]) -> list[str]:
    return [name for name, kind in inspect.get_annotations(cls).items() if not str(kind).startswith("ClassVar")]


def _constructor(defaults: dict[str, object]) -> Callable[..., None]:
    """Writes the constructor out as source, as dataclasses do: a loop over the fields would cost a multiple."""
    if not defaults:
        return _without_fields
    parameters = [name if value is _REQUIRED else f"{name}=_defaults[{name!r}]" for name, value in defaults.items()]
    assignments = [f"    self.{name} = {name}" for name in defaults]
    source = "\n".join([f"def __init__(self, *, {', '.join(parameters)}):", *assignments])
    scope: dict[str, Any] = {"_defaults": defaults}
    exec(source, scope)  # noqa: S102 - field names of classes in this program, which Python parsed as identifiers
    constructor: Callable[..., None] = scope["__init__"]
    return constructor


def _without_fields(self: Refusal) -> None:
    """A refusal that has nothing to add."""


def _register(cls: type[Refusal]) -> None:
    if cls.__doc__ is None:
        raise RuntimeError("docstrings are the messages of errors: run without -OO")
    cls.reason = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).upper()
    cls.template = " ".join(cls.__doc__.split())
    unknown = {name for _, name, _, _ in Formatter().parse(cls.template) if name is not None} - set(cls.fields)
    if unknown:
        raise TypeError(f"{cls.__name__} speaks of {', '.join(sorted(unknown))}, which it does not have")
    if REASONS.setdefault(cls.reason, cls) is not cls:
        raise TypeError(f"{cls.reason} is declared twice")


class InvalidArgument(Refusal, code=Code.INVALID_ARGUMENT):
    """The request is wrong whatever the state."""

    def field_violations(self) -> tuple[tuple[str, str], ...]:
        """Names the fields at fault, and what is wrong with each."""
        return ()


class NotFound(Refusal, code=Code.NOT_FOUND):
    """What the request names is not there."""


class AlreadyExists(Refusal, code=Code.ALREADY_EXISTS):
    """What the request would make is there already."""


class FailedPrecondition(Refusal, code=Code.FAILED_PRECONDITION):
    """The state does not allow it; the same call is refused until the state is another."""


class Aborted(Refusal, code=Code.ABORTED):
    """Somebody else was faster; the call may be repeated."""

    retry_seconds: float | None = None


class PermissionDenied(Refusal, code=Code.PERMISSION_DENIED):
    """The caller is known and may not."""


class Unauthenticated(Refusal, code=Code.UNAUTHENTICATED):
    """The caller is not known."""


class ResourceExhausted(Refusal, code=Code.RESOURCE_EXHAUSTED):
    """A bound is reached; with `retry_seconds` it will pass."""

    retry_seconds: float | None = None


class Unavailable(Refusal, code=Code.UNAVAILABLE):
    """The service cannot answer now."""

    retry_seconds: float | None = 1.0


class DeadlineExceeded(Refusal, code=Code.DEADLINE_EXCEEDED):
    """The caller's time is over."""


class Unimplemented(Refusal, code=Code.UNIMPLEMENTED):
    """The service does not do this."""


class Internal(Refusal, code=Code.INTERNAL):
    """The service is at fault."""
