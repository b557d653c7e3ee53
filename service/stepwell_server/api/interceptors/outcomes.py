"""How a call ends."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from stepwell_server.api.interceptors.around import Context

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def outcome(context: Context) -> str:
    """The name of a call's status; to be asked while what its handler raised is on its way."""
    # The context learns of a cancellation only after the handler has ended.
    if isinstance(sys.exception(), asyncio.CancelledError):
        return "CANCELLED"
    # Whatever the stub says, it is the number, or nothing where a handler simply returned.
    code: Any = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else _CODES[code or 0]
