"""Random programs of calls, branches, races, failures and clean-up, and how they are run, lost and replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from hypothesis import strategies as st
from tests.engine.mended import retry, rewind
from tests.sdk.duet import Duet

from stepwell import Context, RaceLost, RunCancelled, StepError
from stepwell_server.model.steps import Kind, Step

Node = tuple[Any, ...]
KINDS = ["activity", "activity", "patient", "timer", "signal", "person", "local", "slow", "fact"]
CALLS: st.SearchStrategy[Node] = st.tuples(st.just("call"), st.sampled_from(KINDS), st.sampled_from("ab"))
LEAVES: st.SearchStrategy[Node] = st.one_of(CALLS, CALLS, CALLS, st.sampled_from([("nothing",), ("raise",)]))


def _wider(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.tuples(st.sampled_from(["sequence", "gather", "gather all", "race", "race", "race"]), several),
        st.tuples(st.just("clean"), inner, inner, st.booleans()),
        st.tuples(st.sampled_from(["catch", "shield", "lag", "limit"]), inner),
        st.tuples(st.just("map"), several, st.integers(1, 2)),
    )


PROGRAMS: st.SearchStrategy[Node] = st.recursive(LEAVES, _wider, max_leaves=8)


async def perform(ctx: Context, node: Node) -> Any:
    """Does what a node says. What it answers tells who won each race."""
    how = node[0]
    if how == "call":
        return await _call(ctx, node[1], node[2])
    if how == "nothing":
        return "nothing"
    if how == "raise":
        raise ValueError("raised")
    if how in {"catch", "clean"}:
        return await _guarded(ctx, node)
    if how == "sequence":
        return [await perform(ctx, each) for each in node[1]]
    if how == "lag":
        # Code that takes longer than its siblings are held up for, without a call.
        for _ in range(10):
            await asyncio.sleep(0)
        return await perform(ctx, node[1])
    return await _together(ctx, node)


async def _together(ctx: Context, node: Node) -> Any:
    how = node[0]
    if how == "map":
        return await ctx.map(lambda each: _branch(ctx, each), node[1], limit=node[2])
    if how == "shield":
        return await ctx.shield(_branch(ctx, node[1]))
    if how == "limit":
        # A condition that never holds, and what goes on without it.
        return (await ctx.race(ctx.wait_until(lambda: False), perform(ctx, node[1]))).value
    if how == "race":
        winner = await ctx.race(*(_branch(ctx, each) for each in node[1]))
        return ["won", winner.place, winner.value]
    if how == "gather":
        return await ctx.gather(*(perform(ctx, each) for each in node[1]))
    results = await ctx.gather(*(_branch(ctx, each) for each in node[1]), return_exceptions=True)
    return [f"{each!r}" if isinstance(each, Exception) else each for each in results]


async def _guarded(ctx: Context, node: Node) -> Any:
    how = node[0]
    try:
        return await perform(ctx, node[1])
    except (StepError, ValueError) as error:
        if how == "clean":
            raise
        return f"caught {error}"
    except RunCancelled as error:
        if how == "catch":
            raise
        cleaned = await perform(ctx, node[2])
        if node[3]:
            return ["swallowed", isinstance(error, RaceLost), cleaned]
        raise


def _branch(ctx: Context, node: Node) -> Awaitable[Any]:
    """A branch: a bare call where it can be one."""
    if node[0] == "call" and node[1] in BARE:
        return BARE[node[1]](ctx, node[2])
    return perform(ctx, node)


BARE: dict[str, Callable[[Context, str], Awaitable[Any]]] = {
    "activity": lambda ctx, name: ctx.activity("act", name=name),
    "patient": lambda ctx, name: ctx.activity("act", name=name, wait_cancelled=True),
    "timer": lambda ctx, name: ctx.sleep(60, name=name),
    "signal": lambda ctx, name: ctx.wait_signal(name),
    "person": lambda ctx, name: ctx.user_task(name),
}


async def _call(ctx: Context, kind: str, name: str) -> Any:
    if kind in BARE:
        return await BARE[kind](ctx, name)
    if kind == "fact":
        return ctx.side_effect(name, lambda: "fact")
    if kind == "slow":
        return await ctx.step(name, lambda: "slow")

    async def quick() -> str:
        return "quick"

    return await ctx.step(name, quick)


Draw = Callable[[st.SearchStrategy[Any]], Any]


async def live(program: Node, draw: Draw) -> Duet:
    """Runs a program to its end, whatever happens on the way."""
    duet = Duet(lambda ctx: perform(ctx, program))
    await duet.grant()
    await go_on(duet, draw)
    return duet


async def go_on(duet: Duet, draw: Draw, *, accidents: int = 40, is_over: Callable[[], bool] | None = None) -> None:
    """The same from wherever it stands, until it ends or is over; after so many things nothing goes wrong any more."""
    left, may_cancel = accidents, is_over is None
    while not (duet.end or (is_over is not None and is_over())):
        left -= 1
        choices = _choices(duet)
        assert choices, "nothing can happen any more"
        if left > 0:
            choices += ["lose", "lose answer"] if duet.host.reported is not None else ["lose"]
            if duet.ahead is not None:
                choices.append("refute")
            if left % 7 == 0 and duet.records():
                choices.append("rewind")
            if may_cancel and duet.world.run(duet.key).cancel_time is None and left % 5 == 0:
                choices.append("cancel")
        await _act(duet, draw(st.sampled_from(choices)), draw)
        if duet.has_failed and left > 0 and draw(st.booleans()):
            await duet.go_back(retry(duet.world, duet.key))
        duet.check()
        duet.world.check()


def _choices(duet: Duet) -> list[str]:
    what = {
        "answer": duet.host.reported is not None,
        "tell": bool(duet.news),
        "gate": bool(duet.host.gates),
        "finish": bool(_others(duet)),
        "ahead": duet.ahead is None and any(step.kind == Kind.ACTIVITY for step in duet.open_steps()),
        "complete": duet.ahead is not None,
    }
    return [name for name, is_possible in what.items() if is_possible]


def _others(duet: Duet) -> list[Step]:
    """The open steps, but for that whose result the code has gone on with."""
    return [step for step in duet.open_steps() if duet.ahead is None or step.ordinal != duet.ahead.ordinal]


async def _act(duet: Duet, what: str, draw: Draw) -> None:
    if what == "answer":
        await duet.answer()
    elif what == "tell":
        await duet.tell(draw(st.integers(1, 3)))
    elif what == "gate":
        await duet.open_gate()
    elif what == "finish":
        step = draw(st.sampled_from(_others(duet)))
        duet.finish(step, fails=draw(st.sampled_from([False, False, True])))
    elif what == "ahead":
        step = draw(st.sampled_from([step for step in duet.open_steps() if step.kind == Kind.ACTIVITY]))
        if not await duet.go_ahead(step):
            duet.finish(duet.world.step(duet.key, step.ordinal))
    elif what == "complete":
        duet.complete()
    elif what == "refute":
        await duet.refute()
    elif what == "cancel":
        await duet.cancel()
    elif what == "rewind":
        records = duet.records()
        await duet.go_back(rewind(duet.world, duet.key, records[draw(st.integers(0, len(records) - 1))].ordinal))
    else:
        if what == "lose answer":
            duet.commit()
        if not duet.end:
            await duet.lose()


async def replay(duet: Duet, program: Node) -> Any:
    """The end that the whole record gives, without a new step."""
    duet.drop()
    closed = duet.world.closed(duet.key)
    duet.program = lambda ctx: perform(ctx, program)
    await duet.execute(closed.grants + 1, cancelled=closed.cancel_time is not None)
    return duet.host.reported


def numbered(node: Node, numbers: Iterator[int]) -> Node:
    """The same program, each of its calls with a name of its own."""
    if node[0] == "call":
        return (*node[:2], f"c{next(numbers)}")
    return tuple(_over(each, lambda inner: numbered(inner, numbers)) for each in node)


def changed(node: Node, name: str, how: str) -> Node:
    """The same program with one call changed."""
    if node[0] != "call":
        return tuple(_over(each, lambda inner: changed(inner, name, how)) for each in node)
    if node[2] != name:
        return node
    if how == "rename":
        return (*node[:2], "z")
    if how == "remove":
        return ("sequence", ())
    if how == "insert":
        return ("sequence", (("call", "fact", "z"), node))
    return ("call", "timer" if node[1] in {"activity", "patient"} else "activity", name)


def _over(part: Any, do: Callable[[Node], Node]) -> Any:
    if not isinstance(part, tuple):
        return part
    if part and isinstance(part[0], tuple):
        return tuple(do(each) for each in part)
    return do(part) if part else part
