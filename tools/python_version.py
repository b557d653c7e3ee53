"""Refuses, with a sentence, a Python that is too old."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the reader has the old one
    version = ".".join(str(part) for part in sys.version_info[:3])
    sys.exit(
        f"Stepwell needs Python 3.11 or later; {sys.executable} is {version}."
        " Name another one: make PYTHON=python3.12 ..."
    )
