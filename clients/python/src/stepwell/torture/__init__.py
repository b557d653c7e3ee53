"""Torture: load on workers of any language while they, their connections and the service are killed, frozen and cut.

Nothing that was acknowledged may be lost, recorded twice or stuck, and what was done twice must have a fault to explain
it. docs/torture.md says how to read what comes of it; `stepwell torture` is the command.

| module | its part |
|---|---|
| `plan` | what was asked for |
| `processes`, `workers`, `service`, `proxy` | what is started, and can be hurt |
| `load` | what is asked of the service, and what it answered |
| `faults` | what is done to whom, and when |
| `ledger`, `recorded` | what was done, as the workers tell it, and what the service has on record |
| `absences`, `verdict` | pure: who was away when, and what follows from all of it |
| `conductor`, `report` | the course of it, and its result |
"""

from stepwell.torture.conductor import torture
from stepwell.torture.plan import Plan, TortureError
from stepwell.torture.report import Report

__all__ = ["Plan", "Report", "TortureError", "torture"]
