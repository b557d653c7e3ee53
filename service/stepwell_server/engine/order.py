"""The order of calls in a branch: a count and a chained hash, the same in every language.

h(0) is eight zero bytes; h(n) is the first eight bytes of SHA-256(h(n-1) | kind | length of name | name | fingerprint).
"""

from __future__ import annotations

from hashlib import sha256


def chain(before: bytes, kind: int, name: str, fingerprint: bytes = b"") -> bytes:
    """The hash after one more call."""
    encoded = name.encode()
    return sha256(b"%b%c%b%b%b" % (before, kind, len(encoded).to_bytes(4), encoded, fingerprint)).digest()[:8]
