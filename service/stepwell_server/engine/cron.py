"""When a schedule fires: cron fields, macros and intervals, in a time zone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from msgspec.structs import replace

if TYPE_CHECKING:
    from uuid import UUID

    from stepwell_server.model.schedules import Spec

_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EVERY = re.compile(r"@every +([1-9][0-9]{0,8})([smhd])")
_SECOND = re.compile(r"[0-5]?[0-9]")
_FIELDS_WITH_SECONDS = 6
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What cronsim's parser lets through of malformed text.
_MALFORMED = (CronSimError, AssertionError, ValueError, TypeError)


class BadTimes(Exception):  # noqa: N818 - said of a spec
    """A spec names no times: `field` is at fault, `problem` says why."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


def times_after(spec: Spec, after: datetime) -> Iterator[datetime]:
    """The times that a schedule names after a moment, in UTC, without jitter. Raises BadTimes."""
    if spec.start_time is not None:
        after = max(after, spec.start_time - timedelta(microseconds=1))
    zone = zone_of(spec.time_zone)
    every = _EVERY.fullmatch(spec.cron)
    if every is not None:
        found = _intervals(int(every[1]) * _UNIT_SECONDS[every[2]], after)
    else:
        found = _fields(_MACROS.get(spec.cron.lower(), spec.cron), zone, after)
    for time in found:
        if spec.end_time is not None and time >= spec.end_time:
            return
        yield time


def first_after(spec: Spec, after: datetime) -> datetime | None:
    """The first of them, or None if there is no more. Raises BadTimes."""
    return next(times_after(spec, after), None)


def with_jitter(spec: Spec, schedule_id: UUID, nominal: datetime) -> datetime:
    """When the firing for a time happens: put off by as much each time it is asked."""
    if not spec.jitter_seconds:
        return nominal
    following = first_after(spec, nominal)
    most = spec.jitter_seconds
    if following is not None:
        most = min(most, (following - nominal).total_seconds())
    seed = blake2b(schedule_id.bytes + nominal.isoformat().encode(), digest_size=8).digest()
    return nominal + timedelta(seconds=most * int.from_bytes(seed) / 2**64)


def check(spec: Spec, now: datetime) -> None:
    """Raises BadTimes if the spec is malformed, or names no time at all."""
    if spec.start_time is not None and spec.end_time is not None and spec.end_time <= spec.start_time:
        raise BadTimes("end_time", "must be after start_time")
    if first_after(replace(spec, end_time=None), now) is None:
        raise BadTimes("cron", f"{spec.cron!r} names no time within fifty years")


@lru_cache(maxsize=1_024)
def zone_of(name: str) -> tzinfo:
    """A time zone by its IANA name. Raises BadTimes."""
    if name in {"UTC", "Etc/UTC"}:
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        problem = f"{name!r} is no IANA time zone: give a name such as Europe/Berlin"
        raise BadTimes("time_zone", problem) from None


def _intervals(seconds: int, after: datetime) -> Iterator[datetime]:
    passed = int((after - _EPOCH).total_seconds() // seconds)
    while True:
        passed += 1
        yield _EPOCH + timedelta(seconds=passed * seconds)


def _fields(cron: str, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """Six fields whose seconds are one number are five, a little later: so the rules of changing clocks hold."""
    fields = cron.split()
    shift = timedelta()
    if len(fields) == _FIELDS_WITH_SECONDS and _SECOND.fullmatch(fields[0]):
        shift, cron = timedelta(seconds=int(fields[0])), " ".join(fields[1:])
    try:
        found = CronSim(cron, (after - shift).astimezone(zone))
    except _MALFORMED as error:
        problem = f"{cron!r} is no cron expression ({error}): give five fields, six, a macro or `@every 90s`"
        raise BadTimes("cron", problem) from None
    for time in found:
        utc = time.astimezone(UTC) + shift
        if utc > after:
            yield utc
