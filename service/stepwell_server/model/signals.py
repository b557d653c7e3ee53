"""Signals that a run has received. Field order is column order."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Signal(msgspec.Struct, frozen=True, gc=False):
    """A row of `signals`; the payload is in the event. Taken in the order of `ordinal`.

    `chain_key` is the key of the first run of its run's chain, in which its id is unique.
    """

    run_key: int
    ordinal: int
    name: str
    event: int
    signal_id: str | None
    consumed: bool
    receive_time: datetime
    chain_key: int
