"""The Stepwell service: durable workflows over gRPC, kept in Postgres."""

from __future__ import annotations

import os

# gRPC's core writes to standard error what its peers tell it, line breaks and all: whoever reached the port could write
# lines of the log. It reads this when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
