"""Tokens (JWT) that other programs issue, as far as they can be told without their keys."""

from __future__ import annotations

import re
from hashlib import sha256

# What fits into the headers of a call is shorter.
_MOST_CHARACTERS = 16 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


def looks_like_token(text: str) -> bool:
    """Whether a text has the form of a token."""
    return len(text) <= _MOST_CHARACTERS and _TOKEN.fullmatch(text) is not None


def token_hash(text: str) -> str:
    """What is kept of a token."""
    return sha256(text.encode()).hexdigest()
