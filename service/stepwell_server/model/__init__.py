"""Frozen values and enums, one file a noun; no I/O, no protobuf, no SQL."""
