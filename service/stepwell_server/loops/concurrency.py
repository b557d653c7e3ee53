"""Concurrency limits: whoever is next in a line of runs gets a slot as soon as one is free.

Each replica looks at the lines that its own commits have changed. What it did not come to, because it died or was too
busy, the leader finds: it goes through all lines in which somebody waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine.admission import AdmitRun, GiveWay
from stepwell_server.engine.change import Change
from stepwell_server.engine.concurrency import line_left, plan
from stepwell_server.loops.orders import CommandLoop, submit_all
from stepwell_server.model.concurrency import Strategy
from stepwell_server.model.runs import RunRef
from stepwell_server.store import concurrency

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer import Committers
    from stepwell_server.engine.committer.orders import Order
    from stepwell_server.engine.committer.protocols import AnyChange
    from stepwell_server.loops.connection import SharedConnection
    from stepwell_server.model.concurrency import Line, LineView

_LINES, _HEADS = 64, 256


class Slots(CommandLoop):
    """See the module. It is told of commits as a listener of the committers."""

    name = "slots"

    def __init__(
        self,
        connection: SharedConnection,
        committers: Committers,
        clock: Clock,
        seconds: float,
        is_leading: Callable[[], bool],
    ) -> None:
        super().__init__(connection, committers, clock, seconds)
        self._is_leading = is_leading
        self._changed: dict[Line, None] = {}
        self._after = concurrency.FIRST_LINE
        self._sweep_time = 0.0

    def committed(self, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        """Notes the lines that a commit has changed."""
        del committer, position
        for change in changes:
            if isinstance(change, Change) and change.touched_sides and (line := line_left(change)) is not None:
                self._changed[line] = None
        if self._changed:
            self.wake()

    def unsettled(self) -> None:
        """The leader finds whatever there is."""

    def pause(self, done: int) -> float:
        """None, while lines are known to have changed."""
        return 0.0 if self._changed else super().pause(done)

    async def run_once(self) -> int:
        """Looks at some lines; answers how many runs it gave commands for."""
        lines = list(self._changed)[:_LINES]
        for line in lines:
            del self._changed[line]
        lines += [line for line in await self._swept() if line not in lines]
        if not lines:
            return 0
        async with self._connection.use() as connection:
            views = await concurrency.read_heads(connection, lines, _HEADS)
        orders = [order for view in views for order in _orders(view)]
        await submit_all(self._committers, orders)
        return len(orders)

    async def _swept(self) -> list[Line]:
        """The leader's share: the next lines in which somebody waits, once a pause."""
        now = self._clock.monotonic()
        if not self._is_leading() or now < self._sweep_time:
            return []
        self._sweep_time = now + self._seconds
        async with self._connection.use() as connection:
            lines = await concurrency.find_waiting(connection, self._after, _HEADS)
        self._after = lines[-1] if len(lines) == _HEADS else concurrency.FIRST_LINE
        return lines


def _orders(view: LineView) -> list[Order]:
    admit, give_way = plan(view)
    why = "a newer run takes its place" if view.strategy == Strategy.CANCEL_IN_PROGRESS else "there is no free slot"
    reason = f"concurrency limit {view.line.name}: {why}"
    orders: list[Order] = [GiveWay(_ref(view, key), reason) for key in give_way]
    return orders + [AdmitRun(_ref(view, key), view.line) for key in admit]


def _ref(view: LineView, run_key: int) -> RunRef:
    return RunRef(view.line.namespace_id, "", run_key)
