"""The order of calls: in each branch it must agree with the record, else the code has changed.

A branch has a count and a chained hash, the same in every language: h(0) is eight zero bytes; h(n) is the first eight
bytes of SHA-256(h(n-1) | kind | length of name | name | fingerprint).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from stepwell_server import errors
from stepwell_server.engine.change import Change
from stepwell_server.engine.reported import NewStep, ScopeClaim, identity
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import (
    ClosedStep,
    Scope,
    Step,
)

if TYPE_CHECKING:
    from stepwell_server.engine.progress import ProgressRun


def chain(before: bytes, kind: int, name: str, fingerprint: bytes = b"") -> bytes:
    """The hash after one more call."""
    encoded = name.encode()
    return hashlib.sha256(b"%b%c%b%b%b" % (before, kind, len(encoded).to_bytes(4), encoded, fingerprint)).digest()[:8]


def judge(change: Change, progress: ProgressRun) -> errors.StepOrderChanged | list[Step | ClosedStep] | None:
    """None if all is new and in order, the steps if all was recorded before, or what has changed.

    The record moves on only when every branch agrees: a progress that trips the check is written down as a pause.
    """
    by_scope: dict[str, list[NewStep]] = {claim.scope: [] for claim in progress.scopes}
    for step in progress.steps:
        if step.scope not in by_scope:
            raise errors.InvalidField(field="scopes", problem=f"needs an entry for branch {step.scope!r}")
        by_scope[step.scope].append(step)
    repeated: list[tuple[ScopeClaim, Scope]] = []
    moved: list[Scope] = []
    for claim in progress.scopes:
        fresh = by_scope[claim.scope]
        recorded = change.scope(claim.scope)
        after = _after(claim, fresh)
        if claim.count == recorded.order_count and claim.hash == recorded.order_hash:
            moved += [Scope(change.run_key, claim.scope, *after)] if fresh else []
            continue
        if fresh and (after == (recorded.order_count, recorded.order_hash) or _all_recorded(change, fresh)):
            repeated.append((claim, recorded))
            continue
        behind = claim.count < recorded.order_count and not fresh and not claim.closed
        if behind and not _must_be_complete(claim, progress):
            continue
        return _changed(change, claim, fresh, recorded)
    if progress.end is not None and progress.end.phase == Phase.COMPLETED and "" not in by_scope:
        recorded = change.scope("")
        if recorded.order_count:
            return _changed(change, ScopeClaim("", 0, bytes(8), closed=True), [], recorded)
    if repeated and moved:
        claim, recorded = repeated[0]
        return _changed(change, claim, by_scope[claim.scope], recorded)
    for scope in moved:
        change.set_scope(scope)
    if not repeated:
        return None
    ask_for_steps(change, progress.steps)
    return [found for step in progress.steps if (found := change.step_named(identity(step))) is not None]


def _after(claim: ScopeClaim, fresh: list[NewStep]) -> tuple[int, bytes]:
    hash_ = claim.hash
    for step in fresh:
        hash_ = chain(hash_, step.kind, step.name, step.fingerprint)
    return claim.count + len(fresh), hash_


def _all_recorded(change: Change, fresh: list[NewStep]) -> bool:
    """Whether a progress that was overtaken by a later one is sent again."""
    ask_for_steps(change, fresh)
    return all((found := change.step_named(identity(step))) is not None and found.kind == step.kind for step in fresh)


def ask_for_steps(change: Change, steps: list[NewStep]) -> None:
    """Asks for the recorded forms of steps all together, not one by one."""
    unknown = [identity(step) for step in steps if identity(step) not in change.known.identities]
    if unknown and not change.fresh:
        raise Missing(identities=unknown)


def _must_be_complete(claim: ScopeClaim, progress: ProgressRun) -> bool:
    return not claim.scope and progress.end is not None and progress.end.phase == Phase.COMPLETED


def _changed(change: Change, claim: ScopeClaim, fresh: list[NewStep], recorded: Scope) -> errors.StepOrderChanged:
    names = ", ".join(step.name for step in fresh) or "no further step"
    return errors.StepOrderChanged(
        run_id=change.run_id,
        scope=claim.scope or "(root)",
        recorded=f"{recorded.order_count} calls with hash {recorded.order_hash.hex()}",
        got=f"{claim.count} calls with hash {claim.hash.hex()}, then {names}",
    )
