"""The cases of Vyuh's own suites; see the package."""

from __future__ import annotations

from tests.parity.listed.reasons import ENGINE

VYUH: dict[str, dict[str, str]] = {
    "B.5 suggested checks": {
        "versions": "parity/test_vyuh_workflows.py::test_get_by_code parity/test_vyuh_workflows.py::test_get_next_version",
        "deactivate excluded; search; delete unknown": (
            "parity/test_vyuh_workflows.py::test_deactivate parity/test_vyuh_workflows.py::test_search "
            "parity/test_vyuh_workflows.py::test_delete"
        ),
        "instances: CRUD, counts, stale, children, correlation": "parity/test_vyuh_instances.py::test_create parity/test_vyuh_instances.py::test_get_by_id parity/test_vyuh_instances.py::test_update parity/test_vyuh_instances.py::test_update_status parity/test_vyuh_instances.py::test_delete parity/test_vyuh_instances.py::test_get_stale_running_instances parity/test_vyuh_instances.py::test_get_child_instances parity/test_vyuh_instances.py::test_get_by_correlation_id parity/test_vyuh_statistics.py::test_countByStatus",
        "pending lists exclude claimed and completed": (
            "parity/test_vyuh_tasks.py::test_pending_lists_exclude_claimed_and_completed"
        ),
        "two concurrent claims": "parity/test_vyuh_tasks.py::test_two_concurrent_claims_have_one_winner",
        "complete sets completedBy and completedAt": "parity/test_vyuh_tasks.py::test_complete_sets_completed_by_and_at",
        "cancelByInstance counts active ones": "parity/test_vyuh_tasks.py::test_cancel_by_instance_counts_only_active_ones",
        "findActive null after completion": "parity/test_vyuh_tasks.py::test_find_active_is_null_after_completion",
        "events: order, types, paging, latest, prune": "parity/test_vyuh_events.py::test_events_are_in_their_order_and_appended_all_or_none parity/test_vyuh_events.py::test_type_filter_and_paging parity/test_vyuh_events.py::test_the_latest parity/test_vyuh_events.py::test_prune_counts",
        "transaction rollback leaves nothing": "parity/test_vyuh_transactions.py::test_transaction_rollback_leaves_nothing",
        "tokens: fork, join, merge": "not ours: that engine's tokens, which the store keeps as data",
        "signal to a wrong node; duplicate signal": ENGINE,
    },
}
