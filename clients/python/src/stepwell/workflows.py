"""The decorator for workflow functions.

A workflow is `async def fn(ctx)` or `async def fn(ctx, input)`. `ctx` is a `stepwell.Context`; what is done through it
is recorded, and answered from the record when the run goes on elsewhere. Code between such calls runs again then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from stepwell.definitions import ATTRIBUTE, NO_DEFAULTS, Definition

F = TypeVar("F", bound=Callable[..., Any])


@overload
def workflow(fn: F, /) -> F: ...
@overload
def workflow(*, name: str = ...) -> Callable[[F], F]: ...
def workflow(fn: F | None = None, /, *, name: str = "") -> F | Callable[[F], F]:
    """Declares a workflow. `name` is its type, default the function's name. The function stays as it is."""

    def declare(fn: F) -> F:
        definition = Definition(fn, name or fn.__name__, is_workflow=True, defaults=NO_DEFAULTS)
        setattr(fn, ATTRIBUTE, definition)
        return fn

    return declare if fn is None else declare(fn)
