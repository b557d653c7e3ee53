"""How values become payloads and payloads values, and the hook for what happens to their bytes on the way."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import uuid
from pathlib import PurePath
from typing import Any, Protocol

from stepwell._types import reader_for
from stepwell.errors import ConversionError
from stepwell.v1.types_pb2 import Payload

_CODEC_KEY = "codec"
_BODY_KEY = "codec-body"


class DataConverter(Protocol):
    """Turns values into payloads and back. Neither method may block or wait."""

    def to_payload(self, value: object) -> Payload:
        """Makes a payload. Raises `ConversionError` if it cannot."""
        ...

    def from_payload(self, payload: Payload, hint: object = None) -> Any:  # noqa: ANN401 - the hint says what it is
        """Makes a value; of the type that `hint` names, if there is one. Raises `ConversionError` if it cannot."""
        ...


class Codec(Protocol):
    """Changes the bytes of payloads before they leave and after they arrive: encryption, compression.

    `name` is written into each payload that went through it, so that payloads from before it are still read.
    """

    name: str

    def encode(self, data: bytes) -> bytes:
        """Makes the bytes that the service stores."""
        ...

    def decode(self, data: bytes) -> bytes:
        """Undoes `encode`."""
        ...


def _plain(value: object) -> object:
    """Gives what JSON knows in place of what it does not."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, uuid.UUID | PurePath):
        return str(value)
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__qualname__} is not JSON: use a dataclass, or a DataConverter of your own")


class JsonConverter:
    """The default: JSON, with dataclasses as objects, times in ISO 8601; `bytes` stay bytes, `None` is no body."""

    def __init__(self) -> None:
        """Makes the encoder once: `json.dumps` would make one for every value."""
        self._encode = json.JSONEncoder(
            default=_plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode
        self._decoder = json.JSONDecoder()

    def to_payload(self, value: object) -> Payload:
        """Makes a payload. Raises `ConversionError` if the value is not JSON."""
        if value is None:
            return Payload()
        if isinstance(value, bytes):
            return Payload(data=value)
        try:
            return Payload(json=self._encode(value))
        except (TypeError, ValueError) as error:
            raise ConversionError(str(error)) from error

    def from_payload(self, payload: Payload, hint: object = None) -> Any:  # noqa: ANN401 - the hint says what it is
        """Makes a value of the type that `hint` names. Raises `ConversionError` if it does not fit."""
        text = payload.json
        if not text and not payload.HasField("json"):
            return payload.data if payload.HasField("data") else None
        try:
            value = self._decode(text)
            return value if hint is None or hint is Any else reader_for(hint)(value)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ConversionError(f"the payload is not {hint!r}: {error}") from error

    def _decode(self, text: str) -> Any:  # noqa: ANN401 - whatever it says
        """As the decoder's own `decode`, which looks for white space first: programs write none."""
        try:
            value, end = self._decoder.raw_decode(text)
        except json.JSONDecodeError:
            return self._decoder.decode(text)
        return value if end == len(text) else self._decoder.decode(text)


class CodecConverter:
    """A converter whose payloads go through a codec."""

    def __init__(self, converter: DataConverter, codec: Codec) -> None:
        """Puts the codec around the converter."""
        self._converter = converter
        self._codec = codec

    def to_payload(self, value: object) -> Payload:
        """Makes a payload and encodes its body; a null value has none."""
        payload = self._converter.to_payload(value)
        body = payload.WhichOneof("body")
        if body is None:
            return payload
        plain = payload.data if body == "data" else payload.json.encode()
        metadata = {**payload.metadata, _CODEC_KEY: self._codec.name, _BODY_KEY: body}
        return Payload(data=self._codec.encode(plain), metadata=metadata)

    def from_payload(self, payload: Payload, hint: object = None) -> Any:  # noqa: ANN401 - the hint says what it is
        """Decodes the body if a codec made it, and makes a value. Raises `ConversionError` for another codec's."""
        name = payload.metadata.get(_CODEC_KEY)
        if name is None:
            return self._converter.from_payload(payload, hint)
        if name != self._codec.name:
            raise ConversionError(f"the payload was made by codec {name!r}, and this client has {self._codec.name!r}")
        plain = self._codec.decode(payload.data)
        metadata = {key: value for key, value in payload.metadata.items() if key not in {_CODEC_KEY, _BODY_KEY}}
        if payload.metadata[_BODY_KEY] == "json":
            return self._converter.from_payload(Payload(json=plain.decode(), metadata=metadata), hint)
        return self._converter.from_payload(Payload(data=plain, metadata=metadata), hint)


class UndecodedConverter:
    """A converter for clients without a codec: refuses what a codec made instead of handing out its bytes."""

    def __init__(self, converter: DataConverter) -> None:
        """Stands before the converter."""
        self._converter = converter
        self.to_payload = converter.to_payload

    def from_payload(self, payload: Payload, hint: object = None) -> Any:  # noqa: ANN401 - the hint says what it is
        """Makes a value. Raises `ConversionError` if a codec is needed for it."""
        if payload.HasField("data") and _CODEC_KEY in payload.metadata:
            name = payload.metadata[_CODEC_KEY]
            raise ConversionError(f"the payload was made by codec {name!r}: give `codec=` to Client.connect")
        return self._converter.from_payload(payload, hint)


def converter_with(converter: DataConverter | None, codec: Codec | None) -> DataConverter:
    """Gives the converter that a client uses."""
    chosen = converter or JsonConverter()
    return UndecodedConverter(chosen) if codec is None else CodecConverter(chosen, codec)
