"""What a decorator knows of a workflow's or an activity's function: its name, its form and its types."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from stepwell.policies import RetryPolicy, Seconds, duration

ATTRIBUTE = "__stepwell__"


class Definition:
    """A decorated function. Its types are looked up when they are first needed: they may be declared below it."""

    __slots__ = ("_hints", "defaults", "first", "fn", "is_async", "is_workflow", "name", "takes_input")

    def __init__(self, fn: Callable[..., Any], name: str, *, is_workflow: bool, defaults: ActivityDefaults) -> None:
        """Looks at the function's form. Raises `TypeError` for one that cannot be called with one input."""
        self.fn = fn
        self.name = name
        self.is_workflow = is_workflow
        self.defaults = defaults
        self.is_async = inspect.iscoroutinefunction(fn)
        self._hints: tuple[object, object] | None = None
        positional = [
            parameter
            for parameter in inspect.signature(fn).parameters.values()
            if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        ]
        own = positional[1:] if is_workflow else positional
        if is_workflow and (not self.is_async or not positional):
            raise TypeError(f"workflow {name} must be `async def {fn.__name__}(ctx, input)` or `(ctx)`")
        if sum(parameter.default is parameter.empty for parameter in own) > 1:
            raise TypeError(f"{name} takes more than one input: give it one value, such as a dataclass")
        self.takes_input = bool(own)
        self.first = own[0].name if own else ""

    @property
    def input_hint(self) -> object:
        """The type of the input, `None` if it is not told."""
        return (self._hints or self._look_up())[0]

    @property
    def result_hint(self) -> object:
        """The type of the result, `None` if it is not told."""
        return (self._hints or self._look_up())[1]

    def _look_up(self) -> tuple[object, object]:
        try:
            hints = typing.get_type_hints(self.fn, include_extras=True)
        except (NameError, TypeError):  # types that exist only for type checkers
            hints = {}
        self._hints = (hints.get(self.first), hints.get("return"))
        return self._hints


class ActivityDefaults:
    """What an activity asks for unless its call says otherwise."""

    __slots__ = ("_plain", "heartbeat_timeout", "retry", "schedule_to_close", "start_to_close", "task_queue")

    def __init__(
        self,
        *,
        retry: RetryPolicy | None = None,
        start_to_close: Seconds | None = None,
        schedule_to_close: Seconds | None = None,
        heartbeat_timeout: Seconds | None = None,
        task_queue: str = "",
    ) -> None:
        """Keeps the options."""
        self.retry = retry
        self.start_to_close = start_to_close
        self.schedule_to_close = schedule_to_close
        self.heartbeat_timeout = heartbeat_timeout
        self.task_queue = task_queue
        self._plain: dict[str, Any] | None = None

    def spell(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Spells how an activity is performed, in the fields of steps and jobs: as `options` say, or as here."""
        if options:
            return self._spell(options)
        if self._plain is None:
            self._plain = {name: value for name, value in self._spell({}).items() if value}
        return self._plain

    def _spell(self, options: Mapping[str, Any]) -> dict[str, Any]:
        retry = options.get("retry", self.retry)
        return {
            "task_queue": options.get("task_queue", self.task_queue),
            "retry": None if retry is None else retry.to_proto(),
            "schedule_to_start_timeout": duration(options.get("schedule_to_start")),
            "schedule_to_close_timeout": duration(options.get("schedule_to_close", self.schedule_to_close)),
            "start_to_close_timeout": duration(options.get("start_to_close", self.start_to_close)),
            "heartbeat_timeout": duration(options.get("heartbeat_timeout", self.heartbeat_timeout)),
            "priority": options.get("priority"),
        }


NO_DEFAULTS = ActivityDefaults()


def definition_of(fn: object) -> Definition | None:
    """Gives what a decorator noted about a function, or `None`."""
    found = getattr(fn, ATTRIBUTE, None)
    return found if isinstance(found, Definition) else None


def type_and_hint(target: object, noun: str) -> tuple[str, object]:
    """Gives the type's name and its result's type, of a decorated function or of a name."""
    kind, hint, _ = type_and_defaults(target, noun)
    return kind, hint


def type_and_defaults(target: object, noun: str) -> tuple[str, object, ActivityDefaults]:
    """Gives besides those what an activity asks for; nothing, if it is only named."""
    if isinstance(target, str):
        return target, None, NO_DEFAULTS
    found = definition_of(target)
    if found is None or found.is_workflow is not (noun == "workflow"):
        raise TypeError(f"{target!r} is no {noun}: decorate it with @{noun}, or give its name")
    return found.name, found.result_hint, found.defaults
