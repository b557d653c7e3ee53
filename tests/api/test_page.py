"""Pages: sizes are coerced, tokens lead on in the list that gave them and in no other."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from stepwell.v1 import history_pb2, namespaces_pb2, runs_pb2, types_pb2
from stepwell_server.api.page import Page, read_page
from stepwell_server.errors import InvalidField, PageTokenInvalid
from stepwell_server.settings import Limits


class Position(NamedTuple):
    """Where a list of runs goes on."""

    create_time: datetime
    run_id: UUID


LIMITS = Limits()
LAST = Position(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), UUID("01890a5d-ac96-774b-bcce-b302099a8057"))
FILTER: dict[str, Any] = {"namespace": "a", "type": "Order", "phases": [types_pb2.RUN_PHASE_FAILED]}


def read(**fields: Any) -> Page[Position]:
    return read_page(runs_pb2.ListRunsRequest(**fields), Position, LIMITS)


@pytest.mark.parametrize(("asked", "size"), [(0, 50), (1, 1), (1_000, 1_000), (5_000, 1_000)])
def test_sizes_are_coerced(asked: int, size: int) -> None:
    page = read(page_size=asked)
    assert (page.size, page.fetch, page.skip, page.after) == (size, size + 1, 0, None)


def test_sizes_and_skips_below_zero_and_beyond_are_refused() -> None:
    assert read(skip=10_000).skip == 10_000
    for fields in ({"page_size": -1}, {"skip": -1}, {"skip": 10_001}):
        with pytest.raises(InvalidField):
            read(**fields)


def test_a_token_leads_on() -> None:
    """A list without `skip` pages too; the size may change from page to page, and a skip is over."""
    token = read(**FILTER, page_size=10, skip=5).token(LAST)
    page = read(**FILTER, page_size=20, skip=5, page_token=token)
    assert (page.size, page.skip, page.after) == (20, 0, LAST)
    names = read_page(namespaces_pb2.ListNamespacesRequest(), str, LIMITS)
    again = namespaces_pb2.ListNamespacesRequest(page_token=names.token("b"))
    assert read_page(again, str, LIMITS).after == "b"


@pytest.mark.parametrize("other", [{"namespace": "b"}, {"type": ""}, {"phases": []}, {"workflow_id": "w"}])
def test_a_token_of_another_filter_is_refused(other: dict[str, Any]) -> None:
    token = read(**FILTER).token(LAST)
    with pytest.raises(PageTokenInvalid, match="another list or filter"):
        read(**{**FILTER, **other}, page_token=token)


def test_a_token_of_another_list_is_refused() -> None:
    token = read_page(history_pb2.ListEventsRequest(), int, LIMITS).token(7)
    with pytest.raises(PageTokenInvalid, match="another list"):
        read(page_token=token)


def test_a_token_of_another_version_is_refused() -> None:
    """One whose position is of another kind, as another version's may be."""
    names = read_page(runs_pb2.ListRunsRequest(), str, LIMITS)
    with pytest.raises(PageTokenInvalid):
        read(page_token=names.token("b"))


def test_a_changed_token_is_refused() -> None:
    """Whichever character is changed, left out or added."""
    token = read().token(LAST)
    for index in range(len(token)):
        changed = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        # The last character may have bits that say nothing.
        if _decoded(changed) != _decoded(token):
            with pytest.raises(PageTokenInvalid):
                read(page_token=changed)
    for wrong in (token[:-1], token[1:], token + "A", token + "=", "ü", "A", "AAAA", "x" * 5_000, " " + token):
        with pytest.raises(PageTokenInvalid):
            read(page_token=wrong)


def _decoded(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
