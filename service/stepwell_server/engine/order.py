"""The order of calls: in each branch it must agree with the record, else the code has changed.

A branch has a count and a chained hash, the same in every language: h(0) is eight zero bytes; h(n) is the first eight
bytes of SHA-256(h(n-1) | kind | length of name | name | fingerprint). When the code says that it is done, the calls of
all its branches together must be as many as are recorded, so that no branch is missing.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stepwell_server import errors
from stepwell_server.engine.change import Change
from stepwell_server.engine.reported import NewStep, ScopeClaim, identity
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.runs import EMPTY_HASH, Phase, unpack_details
from stepwell_server.model.steps import (
    ClosedStep,
    Scope,
    Step,
    fingerprint_of,
)

if TYPE_CHECKING:
    from stepwell_server.engine.progress import ProgressRun


class Mismatch(NamedTuple):
    """A branch in which the code and the record do not agree."""

    claim: ScopeClaim
    fresh: list[NewStep]
    recorded: Scope


class Changed(msgspec.Struct, frozen=True, gc=False):
    """The code has changed: in these branches, or since it made fewer or more calls in all than are recorded."""

    mismatches: list[Mismatch]
    made: int = 0
    recorded: int = 0


def chain(before: bytes, kind: int, name: str, fingerprint: bytes = b"") -> bytes:
    """The hash after one more call."""
    encoded = name.encode()
    return hashlib.sha256(b"%b%c%b%b%b" % (before, kind, len(encoded).to_bytes(4), encoded, fingerprint)).digest()[:8]


def judge(change: Change, progress: ProgressRun) -> Changed | list[Step | ClosedStep] | None:
    """None if all is new and in order, the steps if all was recorded before, or what has changed.

    The record moves on only when every branch agrees: a progress that trips the check is written down as a pause.
    """
    by_scope = _by_scope(progress)
    repeated: list[Mismatch] = []
    moved: list[Scope] = []
    mismatches: list[Mismatch] = []
    for claim in progress.scopes:
        fresh = by_scope[claim.scope]
        recorded = change.scope(claim.scope)
        after = _after(claim, fresh)
        if claim.place is not None:
            # Code that the worker saw stray may wait for what never comes: counts would not tell before it goes on.
            mismatches.append(Mismatch(claim, fresh, recorded))
            continue
        if claim.count == recorded.order_count and claim.hash == recorded.order_hash:
            moved += [Scope(change.run_key, claim.scope, *after)] if fresh else []
            continue
        if fresh and (after == (recorded.order_count, recorded.order_hash) or _all_recorded(change, fresh)):
            repeated.append(Mismatch(claim, fresh, recorded))
            continue
        behind = claim.count < recorded.order_count and not fresh and not claim.closed
        if behind and not (_is_whole(progress) and not claim.scope):
            continue
        mismatches.append(Mismatch(claim, fresh, recorded))
    if _is_whole(progress) and "" not in by_scope and (recorded := change.scope("")).order_count:
        mismatches.append(Mismatch(ScopeClaim("", 0, EMPTY_HASH, closed=True), [], recorded))
    if repeated and moved:
        mismatches += repeated[:1]
    if mismatches:
        return Changed(mismatches)
    if (missing := _counted(change, progress, [] if repeated else progress.steps)) is not None:
        return missing
    for scope in moved:
        change.set_scope(scope)
    if not repeated:
        return None
    ask_for_steps(change, progress.steps)
    return [found for step in progress.steps if (found := change.step_named(identity(step))) is not None]


def _by_scope(progress: ProgressRun) -> dict[str, list[NewStep]]:
    by_scope: dict[str, list[NewStep]] = {claim.scope: [] for claim in progress.scopes}
    for step in progress.steps:
        if step.scope not in by_scope:
            raise errors.InvalidField(field="scopes", problem=f"needs an entry for branch {step.scope!r}")
        by_scope[step.scope].append(step)
    return by_scope


def _is_whole(progress: ProgressRun) -> bool:
    """Whether the code says that it has made all its calls. A failure may come before them."""
    return progress.end is not None and progress.end.phase == Phase.COMPLETED


def _counted(change: Change, progress: ProgressRun, new: list[NewStep]) -> Changed | None:
    """Holds the calls of all branches of code that is done against the record's."""
    run = change.open
    recorded = run.last_step - unpack_details(run.details).removed_steps + len(new)
    if not _is_whole(progress) or progress.calls == recorded:
        return None
    if progress.calls is not None:
        return Changed([], progress.calls, recorded)
    if recorded > run.order_count + sum(not step.scope for step in new):
        raise errors.InvalidField(field="calls", problem="is required at the end of code that has branches")
    return None


def _after(claim: ScopeClaim, fresh: list[NewStep]) -> tuple[int, bytes]:
    hash_ = claim.hash
    for step in fresh:
        hash_ = chain(hash_, step.kind, step.name, step.fingerprint)
    return claim.count + len(fresh), hash_


def _all_recorded(change: Change, fresh: list[NewStep]) -> bool:
    """Whether a progress that was overtaken by a later one is sent again."""
    ask_for_steps(change, fresh)
    return all(
        (found := change.step_named(identity(step))) is not None
        and (found.kind, fingerprint_of(found)) == (step.kind, step.fingerprint)
        for step in fresh
    )


def ask_for_steps(change: Change, steps: list[NewStep]) -> None:
    """Asks for the recorded forms of steps all together, not one by one."""
    unknown = [identity(step) for step in steps if identity(step) not in change.known.identities]
    if unknown and not change.fresh:
        raise Missing(identities=unknown)
