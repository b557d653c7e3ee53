"""The Python worker of the polyglot demo: the workflow that ties the parts together, and what counts words."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry import trace
from tracing import set_up_tracing

from stepwell import Client, Context, Worker, activity, workflow

QUEUE = "polyglot"
# Makes the spans of this program itself; those of activities come from the client.
tracer = trace.get_tracer("polyglot")


@dataclass(frozen=True, slots=True)
class Order:
    """What is published where. Packing rests for `pause` seconds after each file."""

    source: str
    target: str
    pause: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of `publish` returns: what each language's part came to."""

    names: list[str]
    archived: dict[str, Any]
    rendered: dict[str, Any]
    words: dict[str, int]
    contents: str
    frequent: list[str]


def plan(source: str) -> list[str]:
    """The pages of a folder, by name."""
    with tracer.start_as_current_span("plan"):
        return sorted(path.name for path in Path(source).glob("*.md"))


@activity
def count(path: str) -> dict[str, int]:
    """How often each word stands in a file."""
    return Counter(re.findall(r"[a-z]{4,}", Path(path).read_text().lower()))


def sum_up(counted: list[dict[str, int]]) -> list[str]:
    """The ten most frequent words of all files."""
    with tracer.start_as_current_span("sum up"):
        total: Counter[str] = Counter()
        for each in counted:
            total.update(each)
        return [word for word, _ in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))[:10]]


@workflow
async def publish(ctx: Context, order: Order) -> Report:
    """Publishes a folder of Markdown: Go archives it, TypeScript renders it, Python counts its words, all at once."""
    names = await ctx.step("plan", plan, order.source)
    given = {"source": order.source, "target": order.target, "names": names}
    archived, rendered, counted = await ctx.gather(
        ctx.child("archive", {**given, "pause": order.pause}),
        ctx.child("render", given),
        ctx.map(count, [f"{order.source}/{name}" for name in names]),
    )
    words = {name: sum(each.values()) for name, each in zip(names, counted, strict=True)}
    entries = [
        {**page, "digest": rendered["digests"][page["name"]], "words": words[name]}
        for page, name in zip(rendered["pages"], names, strict=True)
    ]
    contents = await ctx.activity("contents", {"target": order.target, "entries": entries})
    frequent = await ctx.step("sum up", sum_up, counted)
    return Report(names, archived, rendered, words, contents, frequent)


async def main(address: str) -> None:
    """Works until it is told to leave."""
    async with await Client.connect(address) as client:
        await Worker(client, QUEUE, workflows=[publish], activities=[count]).run()


if __name__ == "__main__":
    flush = set_up_tracing()
    try:
        asyncio.run(main(os.environ["STEPWELL_ADDRESS"]))
    finally:
        flush()
