"""The one door through which runs change, many at a time (DESIGN: group commit).

Commands gather on a bounded queue. A committer takes what is there, loads and locks the runs named, lets pure
functions decide, writes the batch with a few set-based statements, commits, and only then answers. What gathers while
it commits is the next batch: it never waits for more.

| what goes wrong | what follows |
|---|---|
| a decision refuses | its caller is answered; the batch goes on as if it had not been there |
| a run is locked elsewhere | the commands of that run wait aside, 1 to 50 ms, until their deadline: ABORTED |
| serialization, deadlock, lock time-out, a unique key taken meanwhile | the whole batch is tried again |
| the database refuses a row | the batch is halved until the culprit stands alone; its caller is told INTERNAL |
| the connection is lost before COMMIT | nothing happened: tried again on a new connection |
| the connection is lost during COMMIT | settled by the batch's id on a new connection before anybody is answered |
"""

from __future__ import annotations

from stepwell_server.engine.committer.committer import Committer
from stepwell_server.engine.committer.protocols import Capacity, Claim, Listener, Rationed
from stepwell_server.engine.committer.router import Committers

__all__ = ["Capacity", "Claim", "Committer", "Committers", "Listener", "Rationed"]
