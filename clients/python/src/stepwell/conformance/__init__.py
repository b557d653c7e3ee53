"""The conformance kit: starts a service, and holds a worker, given as a command, against docs/protocol.md.

docs/conformance.md says what such a worker is. `stepwell conformance -- COMMAND` is its command.
"""

from stepwell.conformance.cases import CASES, Broken, Case
from stepwell.conformance.kit import LANES, Result, as_dict, chosen, run, run_on, where
from stepwell.conformance.service import Service

__all__ = ["CASES", "LANES", "Broken", "Case", "Result", "Service", "as_dict", "chosen", "run", "run_on", "where"]
