"""What was said on a stream, as it is shown when a case fails: who said it, when, and in short what."""

from __future__ import annotations

import dataclasses

from google.protobuf.json_format import MessageToDict

from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse

WORKER, SERVICE, TAP = "worker", "service", "tap"
_TEXT, _ITEMS = 60, 6


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """One thing that was said: seconds since the case began, which stream, by whom, and the message or a remark."""

    time: float
    link: int
    who: str
    what: ConnectRequest | ConnectResponse | str

    def __str__(self) -> str:
        """Shows it in a line."""
        text = self.what if isinstance(self.what, str) else _short(MessageToDict(self.what)) or "{}"
        return f"{self.time:8.3f} s  stream {self.link}  {self.who:7}  {text}"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_short(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        more = [f"… {len(value)} in all"] if len(value) > _ITEMS else []
        return "[" + ", ".join([_short(each) for each in value[:_ITEMS]] + more) + "]"
    text = str(value)
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
