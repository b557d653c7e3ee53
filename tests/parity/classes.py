"""The classes of `stepwell.stores`, and where in them a method is found."""

from __future__ import annotations

import importlib
from typing import Any

from stepwell.v1 import mirrors_pb2

CLASSES: dict[int, dict[str, tuple[str, str]]] = {
    mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE: {"": ("stepwell.stores.assay", "WorkflowStore")},
    mirrors_pb2.TRAIT_STEM_WORKFLOW_STORE: {"": ("stepwell.stores.stem", "PostgresWorkflowStore")},
    mirrors_pb2.TRAIT_FLOW_RUN_STORE: {"": ("stepwell.stores.flow_orchestrator", "FlowRunStore")},
    mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE: {
        "": ("stepwell.stores.vyuh.storage", "WorkflowStorage"),
        "workflows": ("stepwell.stores.vyuh.workflows", "WorkflowRepository"),
        "instances": ("stepwell.stores.vyuh.instances", "WorkflowInstanceRepository"),
        "userTaskInstances": ("stepwell.stores.vyuh.user_task_instances", "UserTaskInstanceRepository"),
        "events": ("stepwell.stores.vyuh.events", "WorkflowEventRepository"),
    },
    mirrors_pb2.TRAIT_SQUID_MESH_STEP_RUN_STORE: {"": ("stepwell.stores.squid_mesh", "StepRunStore")},
}
"""Module and class, by trait and repository."""


def place(trait: int, method: str) -> tuple[str, str, str]:
    """The module, the class and the name in it that a method has."""
    repository, _, name = method.rpartition(".")
    return (*CLASSES[trait][repository], name)


def found(trait: int, method: str) -> Any:
    """The method as the class has it, or None."""
    module, name, method = place(trait, method)
    try:
        return getattr(getattr(importlib.import_module(module), name), method, None)
    except ModuleNotFoundError:
        return None


def is_silent(trait: int, method: str) -> bool:
    """Whether the method gives nothing back, so that only what it did can be asserted."""
    return getattr(found(trait, method), "__annotations__", {}).get("return") in {None, "None"}
