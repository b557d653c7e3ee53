"""Writes docs/reference, a page for each service, of the protocol's comments and docs/reference/examples.

With `--check` only compares.

An example is a request as grpcurl sends it, in the order in which a page carries them out; tests/docs does. With it
stands how the same is done with the SDK and with the command, which tests/docs looks up.
"""

import json
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from stepwell.v1 import mirrors_pb2

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs/reference"
EXAMPLES = PAGES / "examples"
ADDRESS = "127.0.0.1:7233"
PACKAGE = "stepwell.v1"
MESSAGE, FIELD, SERVICE, METHOD = 4, 2, 6, 2  # numbers in descriptor.proto of these lists
_SCALARS = FieldDescriptorProto.Type

INDEX = """\
# Reference

Written by `make generate` from the protocol's comments and `docs/reference/examples`; change it there. Each example is
carried out by a test, in the order of its page, against a service that is empty at its beginning. `<word>` stands for a
value that differs each time.

Errors are canonical codes with an `ErrorInfo`, whose reason is one of `ErrorReason`; what is wrong with a request names
the field. A call names its own reasons. Any may refuse with INVALID_FIELD, with NAMESPACE_NOT_FOUND where it names a
namespace, and with PAGE_TOKEN_INVALID where it takes a page token; beside those stand what any server may say:
UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, and what [keys](../security.md) are refused for.

| service | what it does |
|---|---|
"""


@cache
def described() -> tuple[FileDescriptorProto, ...]:
    """The files of the protocol, by name."""
    found = FileDescriptorSet.FromString(files(PACKAGE).joinpath("descriptors.binpb").read_bytes())
    own = (file for file in found.file if file.package == PACKAGE)
    return tuple(sorted(own, key=lambda each: each.name))


def services() -> Iterator[tuple[FileDescriptorProto, int, ServiceDescriptorProto]]:
    """The services of the protocol, each with its file and its place there."""
    for file in described():
        for place, service in enumerate(file.service):
            yield file, place, service


def examples_of(service: str) -> dict[str, Any]:
    """The examples of a service: by RPC, and what comes before them; empty if there are none yet."""
    path = EXAMPLES / f"{service}.toml"
    return tomllib.loads(path.read_text()) if path.exists() else {}


class Comments:
    """What stands before the elements of a file."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._by_path = {
            tuple(location.path): location.leading_comments.strip() for location in file.source_code_info.location
        }

    def of(self, *path: int) -> str:
        """The comment as Markdown."""
        lines = [line.removeprefix(" ") for line in self._by_path.get(path, "").splitlines()]
        return "\n".join(lines)


def field_rows(name: str) -> list[str]:
    """The fields of a message, with what they mean."""
    files_ = [(file, n, each) for file in described() for n, each in enumerate(file.message_type) if each.name == name]
    ((file, place, message),) = files_
    comments = Comments(file)
    if not message.field:
        return ["No fields."]
    rows = ["| field | type | |", "|---|---|---|"]
    for number, field in enumerate(message.field):
        words = comments.of(MESSAGE, place, FIELD, number).replace("\n", " ").replace("|", "\\|")
        rows.append(f"| `{field.name}` | {type_of(field, message)} | {words} |")
    return rows


def type_of(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """A field's type in words."""
    name = field.type_name.rpartition(".")[2] or _SCALARS.Name(field.type).removeprefix("TYPE_").lower()
    nested = next((each for each in message.nested_type if each.name == name and each.options.map_entry), None)
    if nested is not None:
        key, value = (type_of(each, nested) for each in nested.field)
        return f"map of {key} to {value}"
    return f"list of {name}" if field.label == FieldDescriptorProto.LABEL_REPEATED else name


def command_of(service: str, rpc: str, example: dict[str, Any]) -> str:
    """The grpcurl command of an example."""
    request = json.dumps(json.loads(example.get("request", "{}")), ensure_ascii=False)
    body = f" -d '{request}'" if request != "{}" else ""
    limit = " -max-time 2" if example.get("goes_on") else ""
    return f"grpcurl -plaintext{limit}{body} \\\n  {ADDRESS} {PACKAGE}.{service}/{rpc}"


def example_blocks(service: str, rpc: str, example: dict[str, Any]) -> list[str]:
    """An example as blocks that a test carries out."""
    if "transcript" in example:
        return [f"Its example is [a transcript]({example['transcript']}).\n"]
    parts = [f"```sh {'fails' if example.get('goes_on') else 'run'}\n{command_of(service, rpc, example)}\n```"]
    if "answer" in example:
        answer = json.dumps(json.loads(example["answer"]), indent=2, ensure_ascii=False)
        parts.append(f"```json answer\n{answer}\n```")
    return ["\n".join(parts) + "\n"]


def method_part(file: FileDescriptorProto, place: int, service: ServiceDescriptorProto, number: int) -> list[str]:
    """One RPC."""
    method, comments = service.method[number], Comments(file)
    example = examples_of(service.name).get(method.name, {})
    stream = " Answers with a stream." if method.server_streaming else ""
    parts = [f"## {method.name}\n", f"{comments.of(SERVICE, place, METHOD, number)}{stream}\n"]
    if example:
        parts += example_blocks(service.name, method.name, example)
    lines = [f"- SDK: {', '.join(f'`{each}`' for each in example.get('sdk', []))}"] if example.get("sdk") else []
    lines += [f"- Command: `stepwell {example['command']}`"] if "command" in example else []
    mirrors = method.options.Extensions[mirrors_pb2.mirrors]
    lines += [f"- Answers {', '.join(f'`{mirror.method}`' for mirror in mirrors)}: see [parity](../parity.md)"] * bool(
        mirrors
    )
    parts += ["\n".join(lines) + "\n"] if lines else []
    for title, message in (("Request", method.input_type), ("Answer", method.output_type)):
        name = message.rpartition(".")[2]
        parts.append(f"{title}: `{name}`\n")
        parts.append("\n".join(field_rows(name)) + "\n")
    return parts


def in_order(service: ServiceDescriptorProto) -> list[MethodDescriptorProto]:
    """The RPCs of a service in the order of their examples; those without one stand last."""
    order = list(examples_of(service.name))
    return sorted(service.method, key=lambda each: order.index(each.name) if each.name in order else len(order))


def page(file: FileDescriptorProto, place: int, service: ServiceDescriptorProto) -> str:
    """The page of a service."""
    parts = [f"# {service.name}\n", Comments(file).of(SERVICE, place) + "\n"]
    before = examples_of(service.name).get("before", {})
    if "commands" in before:
        answer = f"\n```json answer\n{before['answer'].strip()}\n```" if "answer" in before else ""
        parts += [before["text"] + "\n", f"```sh run\n{before['commands'].strip()}\n```{answer}\n"]
    if "program" in before:
        parts += [before["program_text"] + "\n", f"```python run\n{before['program'].strip()}\n```\n"]
    for method in in_order(service):
        parts += method_part(file, place, service, list(service.method).index(method))
    return "\n".join(parts)


def render() -> dict[str, str]:
    """All pages, by their names."""
    pages, rows = {}, []
    for file, place, service in services():
        pages[f"{service.name}.md"] = page(file, place, service)
        first = Comments(file).of(SERVICE, place).split(". ")[0].replace("\n", " ").removesuffix(".")
        rows.append(f"| [{service.name}]({service.name}.md) | {first}. |")
    return {"README.md": INDEX + "\n".join(sorted(rows)) + "\n", **pages}


def main() -> None:
    """Writes the pages, or compares."""
    pages = render()
    stale = {path.name for path in PAGES.glob("*.md")} - set(pages)
    if "--check" in sys.argv[1:]:
        changed = {name for name, text in pages.items() if not _is(PAGES / name, text)}
        if stale | changed:
            sys.exit(f"docs/reference is not current: run `make generate` ({', '.join(sorted(stale | changed))})")
        print("docs/reference is current")
        return
    for name in stale:
        (PAGES / name).unlink()
    for name, text in pages.items():
        (PAGES / name).write_text(text)
    print("docs/reference")


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    main()
