"""The table of what each RPC needs is whole, and says where each request names its namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from stepwell_server.api.access import TABLE, Access
from stepwell_server.api.transactions import write_methods
from stepwell_server.model.api_keys import GRANTS, Role

DESCRIBED = FileDescriptorSet.FromString(files("stepwell.v1").joinpath("descriptors.binpb").read_bytes())
METHODS = {
    (service.name, method.name): f"stepwell.v1.{method.name}Request"
    for file in DESCRIBED.file
    if file.package == "stepwell.v1"
    for service in file.service
    for method in service.method
}
ROWS = {(service, method): row for service, methods in TABLE.items() for method, row in methods.items()}
# What only looks begins with one of these.
READS = ("Get", "List", "Read", "Count", "Wait", "Watch", "Preview", "Query", "Search", "Validate", "Explain", "Export")


def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    for file in DESCRIBED.file:
        pool.Add(file)
    return pool


POOL = _pool()


def namespaces_in(message: Any, path: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """The paths of all fields of a request that name a namespace."""
    for field in message.fields:
        if field.name == "namespace" and field.type == field.TYPE_STRING:
            yield f"{path}{field.name}"
        elif field.message_type is not None and field.message_type.full_name not in above:
            yield from namespaces_in(field.message_type, f"{path}{field.name}.", (*above, field.message_type.full_name))


def test_every_rpc_has_a_row_and_every_row_an_rpc() -> None:
    """Who adds an RPC says who may call it: see the head of api/access.py."""
    assert set(METHODS) - set(ROWS) == set(), "without a row in api/access.py"
    assert set(ROWS) - set(METHODS) == set(), "rows in api/access.py without an RPC"


@pytest.mark.parametrize(("service", "method"), sorted(ROWS.keys() & METHODS.keys()))
def test_a_row_knows_where_namespaces_stand(service: str, method: str) -> None:
    """However deep: what a row does not name would not be looked at."""
    found = set(namespaces_in(POOL.FindMessageTypeByName(METHODS[service, method])))
    assert set(ROWS[service, method].namespaces) == found


def queues_in(message: Any, path: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """The paths of all fields of a request that name task queues, but for those of what a run asks for."""
    for field in message.fields:
        if field.name in {"task_queue", "task_queues"}:
            yield f"{path}{field.name}"
        elif field.message_type is not None and field.message_type.full_name not in {*above, ASKED_FOR}:
            yield from queues_in(field.message_type, f"{path}{field.name}.", (*above, field.message_type.full_name))


# What a run's code calls may be of any queue: its worker gets only the result.
ASKED_FOR = "stepwell.v1.Progress"


@pytest.mark.parametrize(
    ("service", "method"), [place for place, row in ROWS.items() if row.role is Role.WORKER and place in METHODS]
)
def test_a_row_knows_where_workers_name_queues(service: str, method: str) -> None:
    """What a row does not name would not be looked at, and a key for some queues would be one for all."""
    found = set(queues_in(POOL.FindMessageTypeByName(METHODS[service, method])))
    assert set(ROWS[service, method].queues) == found


def test_what_else_workers_may_call_names_a_task_or_a_session() -> None:
    """Which is looked up, and told from others'. Who adds a call for workers tries it in test_worker_keys.py, too."""
    assert {method for (_, method), row in ROWS.items() if row.role is Role.WORKER} == {
        *("Connect", "OpenSession", "CloseSession", "ClaimTasks", "ReportTasks", "HeartbeatTasks", "ListTaskSteps")
    }


@pytest.mark.parametrize(("service", "method"), sorted(ROWS))
def test_a_row_says_whether_the_call_writes(service: str, method: str) -> None:
    """By the verb; and a reader writes nothing."""
    row: Access = ROWS[service, method]
    assert row.writes is not method.startswith(READS)
    assert (row.role is Role.READER) <= (not row.writes)


def test_a_transaction_holds_what_a_client_may_do() -> None:
    """Who may commit may do each write of it alone, too."""
    roles = {method: row.role for (_, method), row in ROWS.items()}
    assert {roles[method] for method in write_methods().values()} == {ROWS["TransactionService", "Commit"].role}


def test_namespaces_and_keys_are_an_admin_s() -> None:
    """Whoever may make keys or namespaces may do all."""
    for (service, method), row in ROWS.items():
        if (service == "ApiKeyService" and method != "GetCaller") or method in {"CreateNamespace", "DeleteNamespace"}:
            assert row.role is Role.ADMIN, method


def test_each_role_has_calls_of_its_own() -> None:
    """And who may do more may do all that who may do less may; only workers stand apart."""
    assert {row.role for row in ROWS.values()} == {None, *Role}
    assert GRANTS[Role.READER] < GRANTS[Role.CLIENT] < GRANTS[Role.OPERATOR] < GRANTS[Role.ADMIN] == set(Role)
    assert GRANTS[Role.WORKER] == {Role.WORKER}


def test_what_an_operator_is_for() -> None:
    """Neither programs nor workers change what runs a namespace, or a record by hand."""
    assert {method for (_, method), row in ROWS.items() if row.role is Role.OPERATOR} == {
        *("ApplyToRuns", "ArchiveRuns", "CleanUpRuns", "DeleteRun", "DiscardDeadLetter", "MarkRunArchived", "PinRun"),
        *("PruneEvents", "RepairRun", "RetryDeadLetter", "RewindRun", "SettleRunStep", "UpdateNamespace"),
        "UpdateTaskQueue",
    }
