"""What a run's code tells those who ask: by functions while it is in memory, by published values when it is not."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stepwell._failures import failure_of
from stepwell.definitions import NO_DEFAULTS, Definition
from stepwell.v1 import types_pb2

if TYPE_CHECKING:
    from stepwell._runs import RunExecution
    from stepwell.v1.types_pb2 import Payload
    from stepwell.v1.workers_pb2 import Query

log = logging.getLogger("stepwell.worker")

MOST_NAMES = 16
MOST_BYTES = 64 * 1024


class Queries:
    """The functions that answer for one run, and the values that it publishes."""

    __slots__ = ("_changed", "_functions", "_run", "_shared", "_values", "_waiting")

    def __init__(self, run: RunExecution) -> None:
        """Begins with none."""
        self._run = run
        self._functions: dict[str, Definition] = {}
        self._shared: list[str] = []
        self._values: dict[str, Payload] = {}
        self._changed: dict[str, Payload] = {}
        self._waiting: list[Query] = []

    def part(self) -> None:
        """Forgets the run, of which nothing is under way any more."""
        del self._run

    def register(self, name: str, fn: Callable[..., Any], *, publish: bool) -> None:
        """Lets a function answer. Raises `TypeError` for one that waits, `ValueError` for a name too many."""
        function = Definition(fn, name, is_workflow=False, defaults=NO_DEFAULTS)
        if function.is_async:
            raise TypeError(f"query {name}: its function must answer at once, and cannot be async")
        if publish:
            self._count_name(name)
            self._shared.append(name)
        self._functions[name] = function

    def publish(self, name: str, value: object) -> None:
        """Keeps a value for those who ask. Raises `ValueError` for one too large, or a name too many."""
        payload = self._run.converter.to_payload(value)
        if _size(payload) > MOST_BYTES:
            raise ValueError(f"{name}: a published value has at most {MOST_BYTES} bytes, and this has {_size(payload)}")
        self._count_name(name)
        self._values[name] = self._changed[name] = payload
        self._run.wake()

    def _count_name(self, name: str) -> None:
        if len({*self._values, *self._shared, name}) > MOST_NAMES:
            raise ValueError(f"{name}: a run publishes under at most {MOST_NAMES} names")

    @property
    def has_news(self) -> bool:
        """Tells whether a value was published that the service does not know."""
        return bool(self._changed)

    def take(self) -> dict[str, Payload]:
        """Takes what goes out with the next Progress."""
        for name in self._shared:
            self._share(name)
        taken, self._changed = self._changed, {}
        return taken

    def _share(self, name: str) -> None:
        """Publishes what a function answers, if it is news."""
        function = self._functions[name]
        try:
            payload = self._run.converter.to_payload(contextvars.Context().run(function.fn))
        except Exception:
            log.exception("run %s: query %s cannot be published", self._run.task.run_id, name)
            return
        if _size(payload) > MOST_BYTES:
            log.error("run %s: query %s is too large to be published", self._run.task.run_id, name)
        elif payload != self._values.get(name):
            self._values[name] = self._changed[name] = payload

    def ask(self, query: Query) -> None:
        """Answers a query, or keeps it until the code is just as far as its record: neither behind it nor ahead."""
        if self._run.has_caught_up and self._run.ahead_of is None:
            self._run.host.answer(self._run, query, self._answer(query))
        else:
            self._waiting.append(query)

    def ready(self) -> None:
        """Answers what has waited: the code is as far as its record."""
        waiting, self._waiting = self._waiting, []
        for query in waiting:
            self.ask(query)

    def _answer(self, query: Query) -> dict[str, Any]:
        converter = self._run.converter
        function = self._functions.get(query.name)
        if function is None:
            value = self._values.get(query.name)
            if value is not None:
                return {"result": value}
            known = ", ".join(sorted({*self._functions, *self._values})) or "none"
            message = f"the code has no query {query.name}; it has {known}"
            return {"failure": types_pb2.Failure(message=message, type="UnknownQuery")}
        try:
            # Outside of the run's branches: a query must not leave a trace in the record.
            given = (converter.from_payload(query.input, function.input_hint),) if function.takes_input else ()
            return {"result": converter.to_payload(contextvars.Context().run(function.fn, *given))}
        except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
            return {"failure": failure_of(error, converter)}


def _size(payload: Payload) -> int:
    return len(payload.data) or len(payload.json.encode())
