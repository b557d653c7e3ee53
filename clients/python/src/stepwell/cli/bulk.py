"""`stepwell bulk`: steer all runs that a filter finds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.cli.output import Output, OutputOption, say
from stepwell.cli.retention import counted
from stepwell.cli.runs import Input, Reason, value_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stepwell.bulk import Part

app = typer.Typer(help="Steer all runs that a filter finds.", no_args_is_help=True)
Where = Annotated[str, typer.Argument(metavar="FILTER", help="Which runs, such as 'type = survey AND paused = true'.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell which would be met.")]


@app.command()
def cancel(
    context: typer.Context,
    where: Where,
    reason: Reason = "",
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask open runs to cancel: their code may clean up first."""
    with context.obj.client() as client:
        _show(client.bulk.cancel(where, reason=reason, dry_run=dry_run), dry_run=dry_run, output=output)


@app.command()
def terminate(
    context: typer.Context,
    where: Where,
    reason: Reason = "",
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """End open runs at once, without clean-up."""
    with context.obj.client() as client:
        _show(client.bulk.terminate(where, reason=reason, dry_run=dry_run), dry_run=dry_run, output=output)


@app.command()
def pause(
    context: typer.Context,
    where: Where,
    reason: Reason = "",
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop work on open runs until they are resumed."""
    with context.obj.client() as client:
        _show(client.bulk.pause(where, reason=reason, dry_run=dry_run), dry_run=dry_run, output=output)


@app.command()
def resume(
    context: typer.Context,
    where: Where,
    accept_order: Annotated[bool, typer.Option("--accept-order", help="The code was mended to fit.")] = False,
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let paused runs go on."""
    with context.obj.client() as client:
        _show(client.bulk.resume(where, accept_order=accept_order, dry_run=dry_run), dry_run=dry_run, output=output)


@app.command()
def signal(
    context: typer.Context,
    where: Where,
    signal_name: Annotated[str, typer.Argument(metavar="SIGNAL", help="The signal's name.")],
    *,
    value: Input = "",
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send open runs a signal, each once."""
    with context.obj.client() as client:
        parts = client.bulk.signal(where, signal_name, value_from(value), dry_run=dry_run)
        _show(parts, dry_run=dry_run, output=output)


@app.command()
def retry(
    context: typer.Context,
    where: Where,
    reason: Reason = "",
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let runs that ended badly go on: what failed is done anew, what was completed stays."""
    with context.obj.client() as client:
        _show(client.bulk.retry(where, reason=reason, dry_run=dry_run), dry_run=dry_run, output=output)


def _show(parts: Iterable[Part], *, dry_run: bool, output: Output) -> None:
    """Prints what became of all."""
    seen: list[Part] = []

    def noted() -> Iterator[int]:
        for part in parts:
            seen.append(part)
            yield part.matched_count

    matched = counted(noted(), "runs")
    changed, unchanged = (sum(getattr(part, f"{kind}_count") for part in seen) for kind in ("changed", "unchanged"))
    refused: Counter[str] = Counter()
    words: dict[str, str] = {}
    for refusal in (each for part in seen for each in part.refusals):
        refused[refusal.reason] += refusal.count
        words.setdefault(refusal.reason, f"{refusal.reason}: {refusal.text}")
    facts = {"matched": matched, "changed": changed, "unchanged": unchanged, "refused": refused, "dry_run": dry_run}
    told = f"{changed} runs were changed, {unchanged} were so already, {refused.total()} refused"
    say("\n".join([f"{matched} runs would be met" if dry_run else told, *words.values()]), facts, output)
