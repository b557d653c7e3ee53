"""FlowOrchestrator's `PostgreSqlFlowRunStore`, as one class."""

from __future__ import annotations

from stepwell.stores.flow_orchestrator.controls import Controls
from stepwell.stores.flow_orchestrator.dispatches import Dispatches
from stepwell.stores.flow_orchestrator.retention import Retention
from stepwell.stores.flow_orchestrator.runs import Runs
from stepwell.stores.flow_orchestrator.statistics import Statistics
from stepwell.stores.flow_orchestrator.steps import Steps


class FlowRunStore(Runs, Steps, Statistics, Controls, Dispatches, Retention):
    """Answers like `FlowOrchestrator.PostgreSQL.PostgreSqlFlowRunStore`."""
