"""SquidMesh's stores (Elixir): `StepRunStore`, and `AttemptStore` beside it.

The first argument of their functions, the repository, is the store itself here. Ids of runs are UUIDs; a step run's id
is the text of its number. What they answer as `{:error, reason}` is raised: a stale step run is `StepStateConflict`,
whose metadata has its state; a step run that is not there is `StepNotFound`.
"""

from stepwell.stores.squid_mesh.attempts import AttemptStore, StepAttempt, StepAttemptStatus
from stepwell.stores.squid_mesh.step_runs import StepRun, StepRunStatus, StepRunStore

__all__ = ["AttemptStore", "StepAttempt", "StepAttemptStatus", "StepRun", "StepRunStatus", "StepRunStore"]
