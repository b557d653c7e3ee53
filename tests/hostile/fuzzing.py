"""Random messages of any type, and what can be done to the bytes of a good one.

Values are drawn by the kind of their field: what the protocol may hold, what stands at its ends, ids that there are,
ids of another tenant, and nonsense.
"""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from tests.hostile.values import BY_NAME, BY_TYPE, FILTERS, LEAVES, TEXTS, is_map

F = FieldDescriptor
# Each would be a statement, a pattern, a template or a line of its own, where it was not kept apart.
INJECTIONS = (
    "'; DROP TABLE stepwell.runs; --",
    "' OR '1'='1",
    '" OR ""="',
    "$1",
    "%s %(x)s {0} {x} :x ?",
    "\\'; SELECT pg_sleep(9); --",
    "E'\\x27'",
    "\u2019 OR 1=1 --",
    "\u02bc; DROP TABLE runs",
    "); DELETE FROM runs; --",
    "/* */ UNION SELECT secret FROM api_keys",
    "%",
    "_",
    "\\",
    "${jndi:ldap://127.0.0.1/x}",
    "<script>alert(1)</script>",
    "../../../../etc/passwd",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data/",
    "\u202egnp.exe",
    "\u2028level=error",
)
_ALPHABETS = (string.ascii_letters, string.printable, "äßéñ→漢字🎉\u200b\u202e\u2028", "01", " \t\r\n\0\x1b\x7f")
_LARGE = (b"\xff" * 9 + b"\x7f", b"\xff" * 10, b"\x80" * 20 + b"\x01", b"\xff\xff\xff\xff\x0f")
_DEEPEST, _MOST_ITEMS = 5, 3


class Fuzz:
    """Draws from one chance. `known` names ids by the names of their fields; those of another tenant are among them."""

    def __init__(self, chance: random.Random, known: Mapping[str, Sequence[Any]]) -> None:
        self.chance = chance
        self.known = known

    # --- messages ---------------------------------------------------------------------------------------------------

    def message(self, descriptor: Descriptor, depth: int = 0) -> Any:
        """A message with some of its fields, of each oneof one at most."""
        made = GetMessageClass(descriptor)()
        self.fill(made, self.chance.choice((0.2, 0.5, 0.9)), depth)
        return made

    def fill(self, message: Any, part: float, depth: int = 0) -> None:
        """Sets that part of a message's fields."""
        for field in message.DESCRIPTOR.fields:
            if self.chance.random() < part:
                self.put(message, field, depth)

    def put(self, message: Any, field: FieldDescriptor, depth: int = 0) -> None:
        """Sets a field to something."""
        if is_map(field):
            entry: Any = field.message_type
            value = entry.fields_by_name["value"]
            for _ in range(self._count()):
                key = self.text("key")
                if value.message_type is None:
                    getattr(message, field.name)[_encodable(key)] = self.scalar(value)
                elif depth < _DEEPEST:
                    getattr(message, field.name)[_encodable(key)].CopyFrom(self.message(value.message_type, depth + 1))
        elif field.message_type is not None:
            self._put_message(message, field, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend([self.scalar(field) for _ in range(self._count())])
        else:
            setattr(message, field.name, self.scalar(field))

    def _put_message(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        kind: Descriptor = field.message_type  # type: ignore[assignment] # the field is of a message
        if depth >= _DEEPEST:
            return
        make: Callable[[], Message] = lambda: self._special(kind) or self.message(kind, depth + 1)  # noqa: E731
        if field.is_repeated:
            getattr(message, field.name).extend([make() for _ in range(self._count())])
        else:
            getattr(message, field.name).CopyFrom(make())

    def _special(self, kind: Descriptor) -> Message | None:
        if kind.full_name == "google.protobuf.Duration" and self.chance.random() < 0.7:
            return Duration(nanos=self.chance.choice((0, 1_000_000, 30_000_000)))
        if kind.full_name == "google.protobuf.Timestamp" and self.chance.random() < 0.5:
            return Timestamp(seconds=self.chance.randrange(1_600_000_000, 1_900_000_000))
        known = LEAVES.get(kind.full_name)
        return self.chance.choice(known) if known is not None else None

    def _count(self) -> int:
        return 257 if self.chance.random() < 0.01 else self.chance.randrange(_MOST_ITEMS)

    # --- values -----------------------------------------------------------------------------------------------------

    def scalar(self, field: FieldDescriptor) -> Any:
        """A value of a field that is no message."""
        known = self.known.get(field.name)
        if known and self.chance.random() < 0.6:
            return self.chance.choice(known)
        if field.type == F.TYPE_STRING:
            return _encodable(self.text(field.name))
        if field.type == F.TYPE_BYTES:
            return self.chance.randbytes(self.chance.choice((0, 1, 8, 32, 33, 300)))
        if field.type == F.TYPE_BOOL:
            return self.chance.random() < 0.5
        if field.type == F.TYPE_ENUM and self.chance.random() < 0.8:
            numbers: list[int] = [value.number for value in field.enum_type.values]  # type: ignore[union-attr]
            return self.chance.choice(numbers)
        if field.type in (F.TYPE_INT32, F.TYPE_INT64) and self.chance.random() < 0.6:
            return self.chance.choice((0, 1, 2, 3, 10, 100, 255, 256, 1_000))
        return self.chance.choice(BY_TYPE[field.type])

    def text(self, name: str) -> str:
        """Some text."""
        drawn = self.chance.random()
        if drawn < 0.3:
            return self.chance.choice(("a", "b", "t", "x", "default", "main", "-", "1", ""))
        if drawn < 0.5:
            return self.chance.choice(INJECTIONS)
        if drawn < 0.6:
            return str(uuid.UUID(int=self.chance.getrandbits(128)))
        if drawn < 0.62:
            return str(self.chance.choice(BY_NAME.get(name, TEXTS)))
        if drawn < 0.7 and name == "filter":
            return self.chance.choice(FILTERS)
        alphabet = self.chance.choice(_ALPHABETS)
        return "".join(self.chance.choices(alphabet, k=self.chance.choice((1, 3, 20, 200))))

    # --- requests ---------------------------------------------------------------------------------------------------

    def request(self, descriptor: Descriptor, good: Sequence[Message]) -> Any:
        """A request: half of them are good ones that were spoilt in a place or two, or not at all."""
        if good and self.chance.random() < 0.6:
            made: Any = GetMessageClass(descriptor)()
            made.CopyFrom(self.chance.choice(good))
            for _ in range(self.chance.choice((0, 1, 1, 2, 4)) if descriptor.fields else 0):
                self.put(made, self.chance.choice(descriptor.fields))
        else:
            made = self.message(descriptor)
        return made

    def bytes_of(self, message: Message) -> bytes:
        """A message as bytes that are no longer quite those of one."""
        data = message.SerializeToString()
        for _ in range(self.chance.choice((1, 1, 2, 5))):
            data = self.chance.choice(_DAMAGE)(self.chance, data)
        return data


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


# --- damage ---------------------------------------------------------------------------------------------------------


def _cut(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _flip(chance: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\x80"
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _twice(chance: random.Random, data: bytes) -> bytes:
    first, last = sorted(chance.choices(range(len(data) + 1), k=2))
    return data[:last] + data[first:last] * chance.choice((1, 2, 50)) + data[last:]


def _lost(chance: random.Random, data: bytes) -> bytes:
    first, last = sorted(chance.choices(range(len(data) + 1), k=2))
    return data[:first] + data[last:]


def _other_type(chance: random.Random, data: bytes) -> bytes:
    """A field of another wire type, or of a number that there is not."""
    number, kind = chance.choice((0, 1, 2, 3, 7, 15, 1_000, 2**29 - 1, 2**29)), chance.randrange(8)
    return data + varint(number << 3 | kind) + chance.randbytes(chance.randrange(12))


def _large(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(_LARGE) + data[at:]


def _no_text(chance: random.Random, data: bytes) -> bytes:
    number = chance.randrange(1, 20)
    return data + varint(number << 3 | 2) + b"\x03\xff\xfe\xc0"


def _nested(chance: random.Random, data: bytes) -> bytes:
    field = varint(chance.randrange(1, 10) << 3 | 2)
    for _ in range(chance.choice((5, 100, 150, 2_000))):
        data = field + varint(len(data)) + data
    return data


def _groups(chance: random.Random, data: bytes) -> bytes:
    return data + b"\x0b" * chance.choice((1, 99, 101, 5_000))


def _noise(chance: random.Random, _: bytes) -> bytes:
    return chance.randbytes(chance.choice((1, 10, 100, 1_000)))


_DAMAGE = (_cut, _flip, _flip, _flip, _twice, _lost, _other_type, _large, _no_text, _nested, _groups, _noise)


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def plenty(count: int, parts: Sequence[Any]) -> Iterator[Any]:
    """Each of some in turn, so many in all."""
    for place in range(count):
        yield parts[place % len(parts)]
