"""What a workflow's code offers to those who ask: answers, changes, values to be read when it is not in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwell._runs import RunExecution


class Asked:
    """The part of a `Context` that answers others."""

    __slots__ = ()
    _run: RunExecution

    def on_query(self, name: str, fn: Callable[..., Any], *, publish: bool = False) -> None:
        """Answers queries of that name by calling `fn()` or `fn(input)`, which must be quick and change nothing.

        With `publish` its answer (without an input) is also published whenever the run reports and it has changed, for
        those who ask while no worker has the run. Raises `TypeError` for an async function.
        """
        self._run.queries.register(name, fn, publish=publish)

    def publish(self, name: str, value: object) -> None:
        """Publishes a value for those who ask under that name, also when no worker has the run, and after its end.

        Goes out with the run's next report; of each name the latest is kept. At most 16 names, 64 KiB each: raises
        `ValueError` beyond. Raises `RuntimeError` once the run has ended: it reports no more.
        """
        if self._run.is_ended:
            raise RuntimeError(f"{name}: the run has ended, and reports no more")
        self._run.queries.publish(name, value)

    def on_update(
        self, name: str, handler: Callable[..., Any], *, validator: Callable[..., object] | None = None
    ) -> None:
        """Makes changes that others ask for by calling `handler()` or `handler(input)`, in a branch of its own.

        The handler may be async and use the context; what it returns is recorded and answered. `validator` is called
        before with the same, and raises to reject: then nothing is recorded. It must be quick and change nothing.
        Register before the first `await`: an update that finds no handler where the code waits is rejected.

        In a replay the handler runs again at the same place of the run's own line. What it changes before its first
        `await` is there as it was; what it changes later may come earlier or later, as between other branches.
        """
        self._run.updates.register(name, handler, validator)

    async def wait_until(self, holds: Callable[[], object]) -> None:
        """Waits until `holds()` is true, looked at whenever code of the run has gone on. It must change nothing.

        For state that updates or branches change: `await ctx.wait_until(lambda: len(items) >= 3)`.
        """
        run = self._run
        await run.updates.until(run.present_scope(), holds)
