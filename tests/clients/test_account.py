"""The kit's account of what a worker holds, where what passes the tap comes in an order that is rare."""

from __future__ import annotations

from stepwell.conformance.account import Account, Limits
from stepwell.v1.workers_pb2 import (
    TASK_KIND_ACTIVITY,
    TASK_KIND_RUN,
    Advance,
    CompleteActivity,
    ConnectRequest,
    ConnectResponse,
    Report,
    ReportResult,
    Task,
    TaskRef,
)


def test_a_run_that_is_given_out_anew_owes_nothing_under_its_older_token() -> None:
    account = Account(Limits(activities=1, runs=1, resident=0))
    for token in (1, 2):
        task = Task(ref=TaskRef(task_id="1.0", token=token), kind=TASK_KIND_RUN)
        account.told(ConnectResponse(assigns=[task], advances=[Advance(ref=task.ref)] if token == 1 else []))
    assert [(grant.task.ref.token, grant.owes_progress) for grant in account.held()] == [(2, False)]


def test_an_activity_is_held_until_it_is_revoked() -> None:
    account = Account(Limits(activities=2, runs=1, resident=0))
    for token in (1, 2):
        task = Task(ref=TaskRef(task_id="1.1", token=token), kind=TASK_KIND_ACTIVITY)
        account.told(ConnectResponse(assigns=[task]))
    assert [grant.task.ref.token for grant in account.held()] == [1, 2]


REF = TaskRef(task_id="1.1", token=1)


def performing() -> Account:
    account = Account(Limits(activities=1, runs=1, resident=0))
    account.told(ConnectResponse(assigns=[Task(ref=REF, kind=TASK_KIND_ACTIVITY)]))
    return account


def completes(correlation: int) -> ConnectRequest:
    return ConnectRequest(reports=[Report(correlation=correlation, ref=REF, complete=CompleteActivity())])


def answered(correlation: int, status: ReportResult.Status.ValueType) -> ConnectResponse:
    return ConnectResponse(results=[ReportResult(correlation=correlation, status=status)])


def test_an_end_is_reported_once() -> None:
    for words in ((), (answered(1, ReportResult.STATUS_ACCEPTED),)):
        account = performing()
        account.heard(completes(1), 1)
        for word in words:
            account.told(word)
        account.heard(completes(2), 1)
        assert [broken.expected for broken in account.violations] == ["the end of a task is reported once"]


def test_an_end_is_reported_again_once_it_was_refused_or_its_stream_is_lost() -> None:
    account = performing()
    account.heard(completes(1), 1)
    account.told(answered(1, ReportResult.STATUS_REFUSED))
    account.heard(completes(2), 1)
    account.heard(completes(2), 2)
    account.told(answered(2, ReportResult.STATUS_ACCEPTED))
    assert account.violations == []
