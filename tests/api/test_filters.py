"""Filters and orders as text: what is understood, what is refused and where, and that no text becomes SQL."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from stepwell_server.api.filters import position_of, read_filter, read_order
from stepwell_server.errors import InvalidField
from stepwell_server.model import events, runs, steps, workers
from stepwell_server.model.filters import ANY_ATTRIBUTE, Comparison, Every, Filter, Not, Op, Some
from stepwell_server.model.orders import SortKey
from stepwell_server.model.runs import Phase
from stepwell_server.settings import Limits
from stepwell_server.store import namespaces, run_lists
from stepwell_server.store.filters import named, where
from stepwell_server.store.runs import CLOSED_COLUMNS, OPEN_COLUMNS

LIMITS = Limits()
FIELDS = {**runs.LISTED, "task_queues": workers.LISTED["task_queues"]}
RUN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
FAILED = Comparison("phase", Op.EQUAL, Phase.FAILED)
SURVEY = Comparison("type", Op.EQUAL, "survey")
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def read(text: str) -> Filter | None:
    return read_filter(text, FIELDS, LIMITS)


def compared(text: str) -> Comparison:
    found = read(text)
    assert isinstance(found, Comparison)
    return found


def problem(text: str) -> str:
    with pytest.raises(InvalidField) as refused:
        read(text)
    ((field, said),) = refused.value.field_violations()
    assert field == "filter"
    return said


@pytest.mark.parametrize(
    ("text", "op", "value"),
    [
        ("phase = FAILED", Op.EQUAL, Phase.FAILED),
        ("phase!=RUN_PHASE_FAILED", Op.UNEQUAL, Phase.FAILED),
        ('type = "a b"', Op.EQUAL, "a b"),
        ("type = 'it\\'s'", Op.EQUAL, "it's"),
        ('type = "\\"\\\\"', Op.EQUAL, '"\\'),
        ("type = survey*", Op.PREFIX, "survey"),
        ('type = "a b*"', Op.PREFIX, "a b"),
        ('type = "star\\*"', Op.EQUAL, "star*"),
        ('type = "back\\\\*"', Op.PREFIX, "back\\"),
        ('type = "*"', Op.PREFIX, ""),
        ('type = ""', Op.EQUAL, ""),
        ('type = "AND"', Op.EQUAL, "AND"),
        ("priority >= -3", Op.AT_LEAST, -3),
        ("priority < 9223372036854775807", Op.LESS, 2**63 - 1),
        ("paused = true", Op.EQUAL, True),
        ("driven != false", Op.UNEQUAL, False),
        (f"run_id = {RUN_ID.upper()}", Op.EQUAL, UUID(RUN_ID)),
        ('create_time > "2026-01-01T00:00:00Z"', Op.GREATER, datetime(2026, 1, 1, tzinfo=UTC)),
        ('create_time <= "2026-01-01t02:00:00.5+02:00"', Op.AT_MOST, datetime(2026, 1, 1, 0, 0, 0, 500_000, UTC)),
        ("end_time:*", Op.SET, None),
        ("task_queues:mail", Op.HAS, "mail"),
    ],
)
def test_a_comparison_is_typed(text: str, op: Op, value: object) -> None:
    found = compared(text)
    assert (found.op, found.value) == (op, value)
    assert isinstance(found.value, bool) is isinstance(value, bool)


def test_comparisons_are_joined() -> None:
    assert read("") is None
    assert read(" \n\t") is None
    assert read("phase = FAILED AND type = survey") == Every((FAILED, SURVEY))
    assert read("phase=FAILED OR type=survey OR phase=FAILED") == Some((FAILED, SURVEY, FAILED))
    assert read("NOT phase = FAILED AND type = survey") == Every((Not(FAILED), SURVEY))
    assert read("NOT (phase = FAILED OR (type = survey))") == Not(Some((FAILED, SURVEY)))
    assert read("type != survey*") == Not(Comparison("type", Op.PREFIX, "survey"))


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("phase", 6, "one of ="),
        ("phase =", 8, "a value"),
        ("= FAILED", 1, "a field"),
        ("phase = FAILED type = survey", 16, "AND, OR or the end"),
        ("phase = FAILED AND", 19, "a field"),
        ("phase = FAILED AND type = survey OR type = x", 34, "not mixed"),
        ("(phase = FAILED", 16, "a closing parenthesis"),
        ("phase = FAILED)", 15, "AND, OR or the end"),
        ("()", 2, "a field"),
        ("NOT", 4, "a field"),
        ("AND = x", 1, "a field"),
        ("type = AND", 8, "a value"),
        ("colour = red", 1, "is no field of this list, but run_id, workflow_id"),
        ("phase = BROKEN", 9, "one of PENDING, RUNNING"),
        ("phase < FAILED", 7, "compared by !=, ="),
        ("type > a", 6, "compared by !=, ="),
        ("task_queues = a", 13, "compared by :"),
        ("priority = high", 12, "a whole number"),
        ("priority = 1.5", 12, "a whole number"),
        ("priority = 9223372036854775808", 12, "a whole number"),
        ("paused = 1", 10, "one of true, false"),
        ("run_id = 7", 10, "a UUID"),
        ("create_time > 2026", 15, "a time in quotes"),
        ('create_time > "2026-01-01"', 15, "a time in quotes"),
        ('create_time > "2026-01-01T00:00:00"', 15, "a time in quotes"),
        ('create_time > "2026-13-01T00:00:00Z"', 15, "a time in quotes"),
        ('create_time > "0001-01-01T00:00:00+01:00"', 15, "a time in quotes"),
        ('type = "open', 8, "never closed"),
        ('type = "a\\n"', 10, "a backslash stands before"),
        ("type = \0", 8, "means nothing here"),
        ('type = "a\0b"', 8, "without control characters"),
        ('type = "\x1b"', 8, "without control characters"),
        ("type = " + "x" * 256, 8, "at most 255 bytes"),
        ('type = "' + "ä" * 128 + '"', 8, "at most 255 bytes"),
        ("type ~ a", 6, "means nothing here"),
        ("type = a; DROP TABLE runs", 9, "means nothing here"),
        ("type:x", 5, "compared by !=, =, or by :*"),
        ("(" * 17 + "type = a" + ")" * 17, 18, "more than 16"),
        ("NOT " * 17 + "type = a", 69, "more than 16"),
        (" OR ".join(["type = a"] * 65), 769, "more than 64"),
    ],
)
def test_what_is_not_understood_is_refused_where_it_stands(text: str, place: int, expected: str) -> None:
    said = problem(text)
    assert f"at character {place}:" in said
    assert expected in said


def test_a_text_that_is_too_long_is_refused_unread() -> None:
    said = problem("(" * 4_097)
    assert "4097 characters" in said
    assert "at character 4097:" in said


def read_or_pointed_at(text: str) -> None:
    """The filter is read, or refused with a place that is in it, or just behind it."""
    try:
        read(text)
    except InvalidField as refused:
        ((field, said),) = refused.field_violations()
        place = re.search(r"at character (\d+):", said)
        assert field == "filter"
        assert place is not None, said
        assert 1 <= int(place[1]) <= len(text) + 1
        assert len(said) < 1_000


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_where_it_goes_wrong(text: str) -> None:
    read_or_pointed_at(text)


GOOD = (
    "phase = FAILED AND (type = 'a b*' OR NOT priority >= -3)",
    'attribute.a.b >= -1.5e3 AND attribute.x:* OR attribute.y = "2026-01-01T00:00:00Z"',
    'attribute.x = true AND attribute.x != "a\\"*" AND attribute.x < 12',
    'create_time > "2026-01-01T00:00:00.5+02:00" AND paused != true',
    f"task_queues:mail AND run_id = {RUN_ID} AND end_time:*",
)


@st.composite
def mutilated(draw: st.DrawFn) -> str:
    """A good filter, of which pieces are cut out, put in, repeated, and taken from another."""
    text = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(1, 4))):
        first, last = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        piece = draw(st.text(st.sampled_from("()\"'\\*=!<>:.,;-+eE09 attribue\0\x1b\u2028é\u0661"), max_size=4))
        other = draw(st.sampled_from(GOOD))
        instead = ("", piece, text[first:last] * draw(st.integers(2, 99)), other[draw(st.integers(0, len(other))) :])
        text = text[:first] + draw(st.sampled_from(instead)) + text[last:]
    return text


@settings(max_examples=1_000)
@given(mutilated())
def test_a_mutilated_filter_is_read_or_refused_where_it_goes_wrong(text: str) -> None:
    read_or_pointed_at(text)


VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="'\"\\%_;-*"), max_size=40).filter(
    lambda text: len(text.encode()) <= 255
)


@given(VALUES)
def test_a_value_comes_through_as_it_is_and_only_as_a_parameter(value: str) -> None:
    """Whatever quotes, comments and wildcards it holds: the statement is the same text for any."""
    quoted = "".join(f"\\{each}" if each in '"\\*' else each for each in value)
    found = compared(f'type = "{quoted}"')
    assert found == Comparison("type", Op.EQUAL, value)
    columns = named(OPEN_COLUMNS)
    statement = where(found, columns).compile(dialect=DIALECT)
    assert str(statement) == str(where(SURVEY, columns).compile(dialect=DIALECT))
    assert value in statement.params.values()


def test_wildcards_of_like_are_text() -> None:
    statement = where(compared('type = "50%_a*"'), named(OPEN_COLUMNS)).compile(dialect=DIALECT)
    assert "50/%/_a" in statement.params.values()


def test_every_field_has_a_column() -> None:
    """What a list says that it filters and sorts by, it does."""
    for columns in (OPEN_COLUMNS, CLOSED_COLUMNS):
        filterable, sortable = run_lists.filterable(named(columns)), run_lists._sortable(named(columns))
        assert set(runs.LISTED) - {ANY_ATTRIBUTE} <= set(filterable)
        assert {name for name, field in runs.LISTED.items() if field.is_sortable} <= set(sortable)


def test_orders_are_read() -> None:
    assert read_order("", FIELDS) == ()
    assert read_order(" type ,create_time desc", FIELDS) == (SortKey("type"), SortKey("create_time", descending=True))
    assert read_order("phase asc", FIELDS) == (SortKey("phase"),)
    order = read_order("type, create_time desc, phase", FIELDS)
    assert position_of(order, FIELDS, int) == tuple[str, datetime, int, int]


@pytest.mark.parametrize(
    "text",
    [
        "colour",
        "paused",
        "deadline",
        "task_queues",
        "type,",
        ",",
        "type desc desc",
        "type DESC",
        "type; DROP TABLE runs",
        "type desc nulls first",
        "type, type desc",
        "type, phase, priority, create_time, update_time",
        "type\0",
        "(SELECT 1)",
        "x" * 5_000,
    ],
)
def test_an_order_that_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(InvalidField) as refused:
        read_order(text, FIELDS)
    ((field, said),) = refused.value.field_violations()
    assert field == "order_by"
    assert len(said) < 400


def test_the_protocol_names_the_fields_of_each_list() -> None:
    """The comments on `filter` list them all, in their order."""
    from tests.house.test_house import OWN, comments, elements  # noqa: PLC0415 - reads the descriptors

    explained = {name: comments(file).get(path, "") for file in OWN for name, path in elements(file)}
    lists = {
        "ListRunsRequest": runs.LISTED,
        "ListRunStepsRequest": steps.LISTED,
        "ListEventsRequest": events.LISTED,
        "ReadEventsRequest": events.LISTED,
        "ListWorkersRequest": workers.LISTED,
        "ListRegisteredWorkersRequest": workers.LISTED_REGISTERED,
        "ListNamespacesRequest": namespaces.LISTED,
    }
    for request, fields in lists.items():
        _, _, listed = " ".join(explained[f"{request}.filter"].split()).partition("Fields: ")
        assert listed.rstrip(".").split() == list(fields), request
