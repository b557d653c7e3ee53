"""Where a run's code and its record differ, side by side."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from stepwell.v1.types_pb2 import StepKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell.v1.repairs_pb2 import OrderDifference

_WIDTH = 40


def differences_of(differences: Iterable[OrderDifference]) -> str:
    """Gives one block of lines for each branch: the place, the record's call, the code's call."""
    return "\n".join(line for found in differences for line in _lines(found))


def repairs_of(run_id: str, differences: Sequence[OrderDifference]) -> str:
    """Gives the commands that may come next: the repair that fits, if there is one for each branch, and accepting."""
    command = f"stepwell run repair {run_id}"
    accepting = f"if the code is mended to fit: {command} --accept"
    if not differences or not all(found.fitting for found in differences):
        return f"{accepting}\nif the record is: {command} --rename STEP=NAME --skip STEP"
    return f"if the code means the same by it: {command} {' '.join(_options(differences))}\n{accepting}"


def _options(differences: Sequence[OrderDifference]) -> list[str]:
    """Gives each repair once: by the step's number, or by its name where several branches need the same."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for found in differences:
        names = {call.ordinal: call.name for call in found.recorded}
        for repair in found.fitting:
            ordinal = (repair.rename if repair.HasField("rename") else repair.skip).step.ordinal
            numbers.setdefault((names[ordinal], repair.rename.new_name), []).append(ordinal)
    options: list[str] = []
    for (name, new_name), ordinals in numbers.items():
        by_name = len(ordinals) > 1 and not name.isdecimal() and "=" not in name
        steps = [name] if by_name else [str(ordinal) for ordinal in ordinals]
        options += [_option(step, new_name) for step in steps]
    return options


def _option(step: str, new_name: str) -> str:
    return f"--rename {shlex.quote(f'{step}={new_name}')}" if new_name else f"--skip {shlex.quote(step)}"


def _lines(found: OrderDifference) -> list[str]:
    branch = f"branch {found.scope}" if found.scope else "the run's own line"
    is_known = found.HasField("agreeing")
    agreeing = f"{found.agreeing} of {found.recorded_count} recorded calls agree" if is_known else "other calls before"
    lines = [f"{branch}: {agreeing}", f"  {'':>5} {'RECORD':<{_WIDTH}} CODE"]
    record = {call.place: _call(call.kind, call.name) for call in found.recorded}
    first = found.agreeing if is_known else max(record, default=-1) + 1
    code = dict(enumerate((_call(call.kind, call.name) for call in found.made), first))
    for place in sorted({*record, *code}):
        mark = ">" if is_known and place >= found.agreeing else " "
        lines.append(f"{mark} {place:>5} {record.get(place, ''):<{_WIDTH}} {code.get(place, '')}".rstrip())
    return lines


def _call(kind: StepKind.ValueType, name: str) -> str:
    return f"{StepKind.Name(kind).removeprefix('STEP_KIND_')} {name}"
