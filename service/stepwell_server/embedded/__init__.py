"""The Postgres that `dev`, the tests and the demo start: one server per data folder, owned by one process at a time.

Binaries come from a wheel or from the system; `initdb` and `postgres` are driven here, as root or not. The server
outlives an owner that is killed, and the next owner of the folder adopts it.
"""

from stepwell_server.embedded.databases import create_database
from stepwell_server.embedded.failure import EmbeddedError
from stepwell_server.embedded.postgres import EmbeddedPostgres
from stepwell_server.embedded.profile import DURABLE, FAST, Profile

__all__ = ["DURABLE", "FAST", "EmbeddedError", "EmbeddedPostgres", "Profile", "create_database"]
