"""Writes docs/states.md from the tables of legal moves in the service's model; `--check` only compares.

What a state means comes from the protocol's comments, what may follow it from `MOVES`, `BEGUN_ANEW`, `STEP_MOVES`,
`TASK_MOVES` and `JOB_MOVES`.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import IntEnum
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from stepwell_server.model.jobs import JOB_ENDED, JOB_MOVES
from stepwell_server.model.runs import BEGUN_ANEW, MOVES, RETRIED, REWOUND, TERMINAL, Phase
from stepwell_server.model.steps import ENDED, STEP_MOVES, StepState
from stepwell_server.model.user_tasks import ACTIVE, TASK_MOVES, TaskStatus

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs/states.md"
ENUM, VALUE = 5, 2  # numbers in descriptor.proto of the lists of enums, and of an enum's values

State = TypeVar("State", bound=IntEnum)

INTRODUCTION = """\
# States

Written by `make generate` from the tables in `service/stepwell_server/model/`; change them there. Every move is made
by a decision of the engine, and no decision makes one that is not in its table.
"""

RUNS = """\
## Runs

A run's phase says how far it has come. Two flags stand beside it, each with its reason: `paused`, while nobody may
work on the run, and `cancel_requested`, once somebody asked. They change no phase: a paused run keeps the one that it
has.

A run that has ended does not move by itself. `RetryRun` and `RewindRun` open one again that is not driven and that no
other run continues: it is `PENDING`, if no worker ever had it, else `RUNNING`, and history says so.

A code run that fails and has a retry policy which gives it another attempt does not end: it is `PENDING` again until a
worker begins that attempt.
"""

STEPS = """\
## Steps

Which states a step passes depends on its kind.

| kind | begins | on its way |
|---|---|---|
| `LOCAL`, `MARKER` | ended: it is recorded when it is done | |
| `ACTIVITY` | `PENDING`: waits in its queue | `RUNNING` while a session holds it; `PENDING` again between attempts |
| `TIMER`, `WAIT`, `CHILD`, `USER_TASK` | `WAITING` | |

A `WAIT` or a `USER_TASK` whose time ran out is `COMPLETED`, with `timed_out` set.
"""

USER_TASKS = """\
## User tasks

A task for a person has a status of its own beside its step's state. The step is `WAITING` while the task is open, and
`COMPLETED` with it. A task is `CANCELLED` however its step ends otherwise.
"""

RUN_MOVES = {phase: moves | {Phase.PENDING} if phase in BEGUN_ANEW else moves for phase, moves in MOVES.items()}
JOBS = """\
## Jobs

A job has the life of an activity, and passes through the same states. Whether it was asked to stop is a flag, as with
runs. One that is pending says what it waits for: `task_wait` for a worker, else `wake_time` for its time.
"""

TASK_ENDED = frozenset(TaskStatus) - ACTIVE
NEVER = "Nothing: it has ended."
OPENING = {"`RetryRun`": RETRIED, "`RewindRun`": REWOUND}
JOB_OPENING = {"`RetryJob`": frozenset(state for state in JOB_ENDED if JOB_MOVES[state])}
SAID_ONCE = "Terminal, as all below."


def meanings(enum: str, prefix: str) -> dict[str, str]:
    """What the protocol's comments say of an enum's values, by their names without the prefix."""
    described = FileDescriptorSet.FromString(files("stepwell.v1").joinpath("descriptors.binpb").read_bytes())
    found: dict[str, str] = {}
    for file in described.file:
        comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for index, declared in enumerate(file.enum_type):
            if declared.name != enum:
                continue
            for number, value in enumerate(declared.value):
                text = " ".join(comments.get((ENUM, index, VALUE, number), "").split())
                found[value.name.removeprefix(prefix)] = text.removesuffix(SAID_ONCE).strip()
    return found


def diagram(
    moves: Mapping[State, frozenset[State]],
    ended: frozenset[State],
    first: Iterable[str],
    opening: Mapping[str, Collection[State]] = MappingProxyType({}),
) -> list[str]:
    """The moves in mermaid; what leads to every end leads to the box around them."""
    lines = ["```mermaid", "stateDiagram-v2", *(f"    [*] --> {name}" for name in first)]
    for state, following in moves.items():
        if state in ended:
            continue
        lines += [f"    {state.name} --> {each.name}" for each in sorted(following - ended)]
        if following >= ended:
            lines.append(f"    {state.name} --> ended")
        else:
            lines += [f"    {state.name} --> {each.name}" for each in sorted(following & ended)]
    lines += [
        f"    {state.name} --> {each.name}: {verb.strip('`')}"
        for verb, states in opening.items()
        for state in sorted(states)
        for each in sorted(moves[state])
    ]
    lines += ["    state ended {", *(f"        {each.name}" for each in sorted(ended)), "    }", "```"]
    return lines


def table(
    title: str,
    moves: Mapping[State, frozenset[State]],
    ended: frozenset[State],
    meaning: Callable[[str], str],
    opening: Mapping[str, Collection[State]],
) -> list[str]:
    """A line for each state: what it means, and what may follow."""
    lines = [f"| {title} | what it means | what may follow |", "|---|---|---|"]
    for state, following in moves.items():
        if state in ended:
            lines.append(f"| `{state.name}` | {meaning(state.name)} | {after_end(state, opening)} |")
            continue
        passing = [f"`{each.name}`" for each in sorted(following - ended)]
        endings = ["any end"] if following >= ended else [f"`{each.name}`" for each in sorted(following & ended)]
        lines.append(f"| `{state.name}` | {meaning(state.name)} | {', '.join(passing + endings)} |")
    return lines


def after_end(state: State, opening: Mapping[str, Collection[State]]) -> str:
    """What may follow an end: nothing, or what opens it again."""
    verbs = [verb for verb, states in opening.items() if state in states]
    return f"Nothing by itself: {' or '.join(verbs)} may open it again." if verbs else NEVER


def render() -> str:
    """The whole document."""
    phases, states = meanings("RunPhase", "RUN_PHASE_"), meanings("StepState", "STEP_STATE_")
    of_jobs, of_tasks = meanings("JobState", "JOB_STATE_"), meanings("UserTaskStatus", "USER_TASK_STATUS_")
    parts = [
        INTRODUCTION,
        RUNS,
        "\n".join(table("phase", RUN_MOVES, TERMINAL, phases.__getitem__, OPENING)) + "\n",
        "\n".join(diagram(RUN_MOVES, TERMINAL, [Phase.PENDING.name])) + "\n",
        STEPS,
        "\n".join(table("state", STEP_MOVES, ENDED, states.__getitem__, {})) + "\n",
        "\n".join(diagram(STEP_MOVES, ENDED, [StepState.PENDING.name, StepState.WAITING.name, "ended"])) + "\n",
        USER_TASKS,
        "\n".join(table("status", TASK_MOVES, TASK_ENDED, of_tasks.__getitem__, {})) + "\n",
        "\n".join(diagram(TASK_MOVES, TASK_ENDED, [TaskStatus.PENDING.name])) + "\n",
        JOBS,
        "\n".join(table("state", JOB_MOVES, JOB_ENDED, of_jobs.__getitem__, JOB_OPENING)) + "\n",
        "\n".join(diagram(JOB_MOVES, JOB_ENDED, [StepState.PENDING.name], JOB_OPENING)) + "\n",
    ]
    return "\n".join(parts)


def main() -> None:
    """Writes the document, or compares."""
    text = render()
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text() != text:
            sys.exit(f"{TARGET.relative_to(ROOT)} is not current: run `make generate`")
        print(f"{TARGET.relative_to(ROOT)} is current")
        return
    TARGET.write_text(text)
    print(TARGET.relative_to(ROOT))


if __name__ == "__main__":
    main()
