"""What the house asserts about itself: every element of the protocol is explained, and alike where it should be."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import stepwell_server
from stepwell.v1 import error_reason_pb2
from stepwell_server import refusals

PREFIX = "ERROR_REASON_"
DESCRIBED = FileDescriptorSet.FromString(files("stepwell.v1").joinpath("descriptors.binpb").read_bytes())
OWN = [file for file in DESCRIBED.file if file.package == "stepwell.v1"]
EXAMPLE = re.compile(r"\{.*\}", re.DOTALL)

# Numbers in descriptor.proto of the lists that hold what is to be explained.
MESSAGE, ENUM, SERVICE = 4, 5, 6
FIELD, NESTED, NESTED_ENUM, VALUE, METHOD = 2, 3, 4, 2, 2

# Lists that do not page as the others do, each with its reason.
PAGED_OTHERWISE = {"ListTaskStepsRequest": "goes on by ordinal, as a replay does"}

# What the Python client does by the call for many.
ONE_OF_MANY = {"StartRun": "BatchStartRuns", "StartJob": "BatchStartJobs", "SignalRun": "BatchSignalRuns"}

# Writes without a request id, each with the reason that a repeat does no harm.
REPEATED_WITHOUT_ID = {
    "RenewRunLease": "says what shall be, under its token",
    "RenewRunTask": "says what shall be",
    "RenewStepClaim": "says what shall be, under its token",
    "HeartbeatActivity": "says what shall be",
    "HeartbeatWorker": "says what shall be",
    "RegisterWorker": "says what shall be",
    "CreateSnapshot": "says what shall be",
    "AcquireLeadership": "its holder takes it again at will",
    "ClaimRunTask": "a task whose claimer did not hear of it is stale, and released as such",
    "ClaimActivity": "an activity whose claimer did not hear of it times out",
    "ReleaseStaleRunTasks": "says what shall be",
    "RemoveDeadWorkers": "says what shall be",
    "TakeDueRuns": "what was handed out is due again when its lease is over",
    "ResolveWatchers": "what was woken shows the event; a repeat wakes others, as another event would",
    "TakeUnclaimedDispatches": "what was given out is unclaimed again when its time is over",
    "FireDueTimers": "what was fired stands in its run's history",
    "BatchStartRuns": "each of its requests has one",
    "BatchStartJobs": "each of its requests has one",
    "BatchSignalRuns": "each of its requests has one",
    "UpdateRun": "its update_id does it",
    "OpenSession": "it names the session that it resumes",
    "CloseSession": "says what shall be",
    "ClaimTasks": "a task whose claimer did not hear of it goes back when the session expires",
    "ReportTasks": "each report is recognised by its token and by what is recorded",
    "HeartbeatTasks": "says what shall be",
    "CleanUpRuns": "says what shall be",
    "PruneEvents": "says what shall be",
    "ArchiveRuns": "says what shall be, and writes to the same place",
    "RevokeApiKey": "says what shall be",
    "ImportApiKey": "a hash is imported once",
    "AdvanceClock": "moves a clock of tests, whose caller sees what it shows",
}
READS = (
    "Explain",
    "Get",
    "List",
    "Read",
    "Count",
    "Wait",
    "Watch",
    "Preview",
    "Query",
    "Search",
    "Validate",
    "Connect",
    "Export",
)


def elements(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names all that a file declares, each with its path among the comments."""
    for index, message in enumerate(file.message_type):
        yield from elements_of_message(message, message.name, (MESSAGE, index))
    for index, enum in enumerate(file.enum_type):
        yield from elements_of_enum(enum, enum.name, (ENUM, index))
    for index, service in enumerate(file.service):
        yield service.name, (SERVICE, index)
        for number, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (SERVICE, index, METHOD, number)


def elements_of_message(message: Any, name: str, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    if message.options.map_entry:
        return
    yield name, path
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, FIELD, index)
    for index, nested in enumerate(message.nested_type):
        yield from elements_of_message(nested, f"{name}.{nested.name}", (*path, NESTED, index))
    for index, enum in enumerate(message.enum_type):
        yield from elements_of_enum(enum, f"{name}.{enum.name}", (*path, NESTED_ENUM, index))


def elements_of_enum(enum: Any, name: str, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name, path
    for index, value in enumerate(enum.value):
        yield value.name, (*path, VALUE, index)


def comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {tuple(place.path): place.leading_comments for place in file.source_code_info.location}


def requests() -> dict[str, Any]:
    """The request messages of all methods, by name."""
    messages = {message.name: message for file in OWN for message in file.message_type}
    methods = [method for file in OWN for service in file.service for method in service.method]
    return {name: messages[name] for name in (method.input_type.rsplit(".", 1)[-1] for method in methods)}


def declared_reasons() -> dict[str, type[refusals.Refusal]]:
    """The reasons that the service declares, wherever it does."""
    for module in pkgutil.walk_packages(stepwell_server.__path__, "stepwell_server."):
        if module.name.startswith(("stepwell_server.errors", "stepwell_server.api.interceptors")):
            importlib.import_module(module.name)
    return {
        reason: refusal
        for reason, refusal in refusals.REASONS.items()
        if refusal.__module__.startswith("stepwell_server.")
    }


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.name)
def test_every_element_is_explained(file: FileDescriptorProto) -> None:
    """`grpcurl describe` and the generated stubs show these comments, so none may be missing."""
    explained = comments(file)
    assert [name for name, path in elements(file) if not explained.get(path, "").strip()] == []


def test_errors_and_reasons_are_one_to_one() -> None:
    reasons = {name.removeprefix(PREFIX) for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert reasons == set(declared_reasons())


def test_every_reason_has_an_example_that_is_true() -> None:
    """The example names the reason, the domain and the very fields that the error has, and its code."""
    (file,) = (file for file in OWN if file.name.endswith("error_reason.proto"))
    explained = comments(file)
    for name, path in elements(file):
        if not name.startswith(PREFIX) or name == f"{PREFIX}UNSPECIFIED":
            continue
        refusal = declared_reasons()[name.removeprefix(PREFIX)]
        text = explained[path]
        found = EXAMPLE.search(text)
        assert found is not None, name
        example = json.loads(found.group().replace("\n", " "))
        assert (example["reason"], example["domain"]) == (refusal.reason, "stepwell.dev")
        assert set(example["metadata"]) == set(refusal.fields) - {"retry_seconds", "violations"}, name
        assert f"{refusal.code.name}." in text, name


def test_methods_name_only_reasons_that_exist() -> None:
    """What a comment says after `Reasons:` is a reason that a program can meet."""
    known = set(declared_reasons())
    for file in OWN:
        explained = comments(file)
        for name, path in elements(file):
            _, mark, listed = explained.get(path, "").partition("Reasons:")
            words = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", listed)) if mark and "." in name else set()
            assert words <= known, name


def test_the_namespace_comes_first() -> None:
    """It is field 1 of every request that has one, and text."""
    for name, request in requests().items():
        for field in request.field:
            if field.name == "namespace":
                assert (field.number, field.type) == (1, field.TYPE_STRING), name


def test_every_method_has_messages_of_its_own() -> None:
    for file in OWN:
        for service in file.service:
            for method in service.method:
                assert method.input_type == f".stepwell.v1.{method.name}Request"
                assert method.output_type == f".stepwell.v1.{method.name}Response"


def test_services_end_in_their_family() -> None:
    names = [service.name for file in OWN for service in file.service]
    assert [name for name in names if not name.endswith(("Service", "Store"))] == []


def test_every_list_pages() -> None:
    """Lists have `page_size` and `page_token`, and answer with `next_page_token`."""
    responses = {message.name: message for file in OWN for message in file.message_type}
    lists = [name for name in requests() if name.startswith("List") and name not in PAGED_OTHERWISE]
    assert lists
    for name in lists:
        asked = {field.name: field.type for field in requests()[name].field}
        answered = {field.name for field in responses[name.replace("Request", "Response")].field}
        assert {"page_size", "page_token"} <= set(asked), name
        assert "next_page_token" in answered, name
    assert set(PAGED_OTHERWISE) <= set(requests())


def test_writes_take_a_request_id() -> None:
    """What changes something is safe to repeat, or stands in a list with the reason."""
    fields = {name: {field.name for field in request.field} for name, request in requests().items()}
    writes = [name.removesuffix("Request") for name in fields if not name.startswith(READS)]
    without = {name for name in writes if "request_id" not in fields[f"{name}Request"]}
    assert without == set(REPEATED_WITHOUT_ID)


def test_enums_are_prefixed_and_begin_unset() -> None:
    for file in OWN:
        for enum in (*file.enum_type, *(enum for message in file.message_type for enum in message.enum_type)):
            prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper()
            assert enum.value[0].name == f"{prefix}_UNSPECIFIED"
            assert all(value.name.startswith(f"{prefix}_") for value in enum.value)


def test_every_method_has_one_in_the_python_client() -> None:
    """Whatever a method does can be done without touching stubs: the client's own code calls it somewhere."""
    package = files("stepwell")
    modules = [path for path in Path(str(package)).rglob("*.py") if "v1" not in path.parts]
    source = "\n".join(path.read_text() for path in modules)
    methods = [method.name for file in OWN for service in file.service for method in service.method]
    assert [name for name in methods if not re.search(rf"\.{ONE_OF_MANY.get(name, name)}\b", source)] == []
