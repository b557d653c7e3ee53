"""The comments of RPCs name what their requests make possible."""

from __future__ import annotations

from importlib.resources import files

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

_DESCRIBED = FileDescriptorSet.FromString(files("stepwell.v1").joinpath("descriptors.binpb").read_bytes())
_OWN = [file for file in _DESCRIBED.file if file.package == "stepwell.v1"]
_FIELDS = {
    f".stepwell.v1.{message.name}": {field.name for field in message.field}
    for file in _OWN
    for message in file.message_type
}
_SERVICE, _METHOD = 6, 2
_KNOWN_BY_ITS_SIGNALS = {"ApplyToRuns"}
"""Its id is only what the signals' ids are made of."""


def _comments() -> dict[str, tuple[str, str]]:
    """Of each RPC its own comment with that of its service, and its request."""
    found: dict[str, tuple[str, str]] = {}
    for file in _OWN:
        said = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for number, service in enumerate(file.service):
            for place, method in enumerate(service.method):
                own = said.get((_SERVICE, number, _METHOD, place), "")
                found[method.name] = (said.get((_SERVICE, number), "") + own, method.input_type)
    return found


COMMENTS = _comments()
REPEATED = [
    name
    for name, (_, request) in COMMENTS.items()
    if "request_id" in _FIELDS[request] and name not in _KNOWN_BY_ITS_SIGNALS
]


@pytest.mark.parametrize("method", REPEATED)
def test_who_takes_a_request_id_says_what_another_request_under_it_is(method: str) -> None:
    comment, _ = COMMENTS[method]
    assert "REQUEST_ID_REUSED" in comment, "name it in the comment of the RPC or of its service"
