"""Refuses, with a sentence, a Python that is too old."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the reader has the old one
    sys.exit(
        "Stepwell needs Python 3.11 or later; %s is %d.%d. Name another: make PYTHON=python3.12 ..."
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )
