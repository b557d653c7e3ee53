"""Writes the schema of the chart's values: from values.yaml, its comments, and the service's settings.

A comment above a key is its description; its default tells the type; a line `@schema {...}` adds to that. With
`--check` it writes nothing and fails if the file is not current.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stepwell_server.settings import Settings

CHART = Path(__file__).resolve().parent.parent / "deploy/helm/stepwell"
VALUES = CHART / "values.yaml"
SCHEMA = CHART / "values.schema.json"
# What other values of the chart decide, or what is of no use in a cluster; secrets never stand in values.
OWNED = re.compile(
    r"(database|pool)_url(_file)?|database_schema|host|port|(metrics|health)_(host|port)|shutdown_seconds|require_keys"
    r"|open_reflection|jwt_issuers|tls_(certificate|key)_file|tls_client_.*|dev_data_dir|test_clock"
)
_KEY = re.compile(r"( *)([A-Za-z_][\w./-]*):(?:\s|$)")
_OBJECT = {"type": "object"}
DEFINITIONS: dict[str, Any] = {
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": dict.fromkeys(("limits", "requests"), _OBJECT) | {"claims": {"type": "array"}},
    },
    "probe": {
        "type": "object",
        "additionalProperties": False,
        "required": ["service"],
        "properties": {
            "service": {"type": "string", "description": "The health service asked for."},
            **{
                name: {"type": "integer", "minimum": 0 if name == "initialDelaySeconds" else 1}
                for name in ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold")
            },
            "successThreshold": {"type": "integer", "minimum": 1},
            "terminationGracePeriodSeconds": {"type": "integer", "minimum": 1},
        },
    },
}


class Key(NamedTuple):
    """A key of values.yaml, where it stands, and what stands above it."""

    path: tuple[str, ...]
    line: int
    comment: str
    schema: dict[str, Any]


def keys(text: str) -> Iterator[Key]:
    """All keys of block mappings in their order, those within lists left out."""
    above: list[tuple[int, str]] = []
    comment: list[str] = []
    listed: int | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip().removeprefix("#").strip())
            continue
        found = _KEY.match(line)
        indent = len(line) - len(line.lstrip())
        if listed is not None and line.strip() and indent <= listed and not line.lstrip().startswith("- "):
            listed = None
        if found and listed is None:
            above = [(place, name) for place, name in above if place < indent]
            above.append((indent, found[2]))
            noted = [each for each in comment if each.startswith("@schema ")]
            told = " ".join(each for each in comment if not each.startswith("@schema "))
            more = json.loads(noted[0].removeprefix("@schema ")) if noted else {}
            yield Key(tuple(name for _, name in above), number, told, more)
        elif line.lstrip().startswith("- ") and listed is None:
            listed = indent
        comment = []


def is_free(schema: dict[str, Any]) -> bool:
    """Whether what is under a key is the user's own: its keys are not ours to explain."""
    return bool({"$ref", "additionalProperties"} & schema.keys()) or schema.get("type") == "object"


def schema_of(default: Any) -> dict[str, Any]:
    """What a default alone tells."""
    if isinstance(default, bool):
        return {"type": "boolean"}
    if isinstance(default, int):
        return {"type": "integer"}
    if isinstance(default, float):
        return {"type": "number"}
    if isinstance(default, list):
        return {"type": "array"}
    return {"type": "string"} if isinstance(default, str) else {"type": "object"}


def own_keys(text: str) -> list[Key]:
    """Keys that the chart has, without those below what is the user's own."""
    kept: list[Key] = []
    free: list[tuple[str, ...]] = []
    for key in keys(text):
        if any(key.path[: len(path)] == path for path in free):
            continue
        kept.append(key)
        if is_free(key.schema):
            free.append(key.path)
    return kept


def properties(text: str) -> dict[str, Any]:
    """The schema of all values."""
    values = yaml.safe_load(text)
    top: dict[str, Any] = {"properties": {}}
    nodes: dict[tuple[str, ...], dict[str, Any]] = {(): top}
    for key in own_keys(text):
        default = values
        for name in key.path:
            default = default[name]
        more = dict(key.schema)
        node: dict[str, Any] = {"description": key.comment}
        if "$ref" in more:
            node["allOf"] = [{"$ref": more["$ref"]}]
        else:
            node |= schema_of(default) | more
        if "exclusiveMinimum" in node:
            node["type"] = "number"
        if isinstance(default, dict) and not is_free(key.schema):
            node |= {"additionalProperties": False, "properties": {}}
        nodes[key.path] = node
        nodes[key.path[:-1]]["properties"][key.path[-1]] = node
    own: dict[str, Any] = top["properties"]
    return own


def settings() -> dict[str, Any]:
    """The settings of the service that may be chosen, as it has them itself."""
    described = Settings.model_json_schema(by_alias=False)
    chosen = {name: told for name, told in described["properties"].items() if not OWNED.fullmatch(name)}
    known = described.get("$defs", {})
    return {"type": "object", "additionalProperties": False, "properties": _all_portable(chosen, known)}


def _all_portable(told: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    return {name: _portable(each, known) for name, each in told.items()}


def _portable(told: Any, known: dict[str, Any]) -> Any:
    """What draft 7 knows, in one piece: no titles, no formats, no defaults, which the service has itself."""
    if isinstance(told, list):
        return [_portable(each, known) for each in told]
    if not isinstance(told, dict):
        return told
    if "$ref" in told:
        own = {name: value for name, value in told.items() if name != "$ref"}
        told = known[told["$ref"].rpartition("/")[2]] | own
    kept = {name: value for name, value in told.items() if name not in {"title", "format", "default"}}
    for name, value in kept.items():
        if name == "properties":
            kept[name] = _all_portable(value, known)
        elif name == "description":
            kept[name] = " ".join(value.split())
        else:
            kept[name] = _portable(value, known)
    return kept


def rendered() -> str:
    """The file as it shall be."""
    text = VALUES.read_text()
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the Stepwell chart",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **properties(text),
            "global": {"description": "Set by charts that have this one among their own.", "type": "object"},
        },
        "definitions": {**DEFINITIONS, "settings": settings()},
    }
    return json.dumps(schema, indent=2) + "\n"


def main() -> None:
    """Writes it, or looks."""
    text = rendered()
    if "--check" not in sys.argv[1:]:
        SCHEMA.write_text(text)
    elif not SCHEMA.exists() or SCHEMA.read_text() != text:
        sys.exit(f"{SCHEMA.name} is not what values.yaml and the settings say: run `make generate`")


if __name__ == "__main__":
    main()
