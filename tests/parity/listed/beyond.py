"""What goes beyond all five stores."""

from __future__ import annotations

_ASSAY = "parity/test_assay.py::test_"
_ACTIVITIES = "parity/test_assay_activities.py::test_"
_WORK = "parity/test_assay_work.py::test_"
_STEM = "parity/test_stem.py::test_"
_WAITS = "parity/test_stem_waits.py::test_"

BEYOND: dict[str, tuple[str, str]] = {
    "a": ("a retry is not claimable before its time", f"{_ACTIVITIES}activity_retry_on_failure"),
    "b": ("start_to_close is enforced", "parity/test_beyond.py::test_b_start_to_close_is_enforced"),
    "c": (
        "200 concurrent appends have numbers without gaps",
        "parity/test_beyond.py::test_c_concurrent_appends_have_numbers_without_gaps",
    ),
    "d": (
        "a reaped worker's completion and heartbeat are rejected",
        "parity/test_beyond.py::test_d_a_reaped_workers_reports_are_rejected api/test_activity_store.py::test_a_stale_claim_changes_nothing",
    ),
    "e": (
        "a heartbeat tells of cancellation and keeps its details",
        "parity/test_beyond.py::test_e_a_heartbeat_tells_of_cancellation_and_keeps_details",
    ),
    "f": ("a dispatch lease is renewable", "ends/test_run_tasks.py::test_a_dispatch_lease_is_renewed_by_its_worker"),
    "g": (
        "namespaces with equal queue names are apart",
        "parity/test_beyond.py::test_g_namespaces_with_equal_queue_names_are_apart",
    ),
    "h": (
        "a resumed schedule does not backfill; a patch recomputes",
        "api/test_firings.py::test_a_resumed_schedule_does_not_make_up_for_its_pause api/test_schedules.py::test_a_patch_reckons_the_next_firing_anew_and_keeps_the_rest",
    ),
    "i": (
        "overlap policies that queue and cancel",
        "api/test_firings.py::test_buffer_one_waits_for_the_end api/test_firings.py::test_cancel_other_asks_and_waits",
    ),
    "j": (
        "5- and 6-field cron, clock changes, bad cron",
        "engine/test_schedules.py::test_times engine/test_schedules.py::test_what_names_no_times_is_refused api/test_schedules.py::test_bad_schedules_are_refused",
    ),
    "k": (
        "one leader on one connection; failover; deployments apart",
        "loops/test_leader.py::test_another_leads_when_the_backend_is_killed loops/test_leader.py::test_one_leads_and_hands_over_when_it_stops loops/test_leader.py::test_deployments_do_not_block_each_other",
    ),
    "l": (
        "terminal states are immutable",
        "parity/test_beyond.py::test_l_what_has_ended_stays_as_it_is api/test_driven_runs.py::test_what_has_ended_stays_as_it_is",
    ),
    "m": (
        "a timer fires with its event",
        (
            "parity/test_beyond.py::test_m_a_timer_fires_together_with_its_event "
            "chaos/test_timers.py::test_the_service_killed_while_it_fires_timers "
            "chaos/test_timers.py::test_postgres_killed_while_timers_fire"
        ),
    ),
    "n": (
        "due runs are crash-safe, and disjoint over 8 pollers",
        f"{_WAITS}due_runs_are_disjoint_over_eight_pollers api/test_driven_runs.py::test_a_due_run_is_not_lost_with_its_poller",
    ),
    "o": (
        "watchers are resolved once over concurrent emitters",
        f"{_WAITS}concurrent_emitters_resolve_each_watcher_once",
    ),
    "p": (
        "steps in the order of execution, also #10",
        f"{_STEM}list_steps_in_versioned_order {_STEM}list_steps_in_execution_order",
    ),
    "q": ("an event's deadline is visible as a timeout", f"{_WAITS}a_deadline_that_passed_is_told_from_an_event"),
    "r": (
        "a parent is told of a cancelled or terminated child",
        "ends/test_children_told.py::test_a_parent_is_told_of_a_child_that_somebody_else_ended",
    ),
    "s": (
        "search attributes do not stall a run",
        "api/test_search_attributes.py::test_a_patch_wakes_nobody sdk/test_attributes.py::test_code_sets_them_once",
    ),
    "t": (
        "dead workers are removed at once and free their tasks",
        f"{_WORK}worker_remove_dead api/test_worker_store.py::test_each_dead_worker_is_one_callers",
    ),
    "u": ("a namespace that is not empty is not deleted", f"{_ASSAY}namespace_delete_and_stats"),
    "v": (
        "the push stream: latency, no double assignment, return",
        "stream/test_replicas.py::test_an_end_on_one_replica_advances_a_run_on_the_other_by_a_hint stream/test_replicas.py::test_64_claimers_on_two_replicas_never_share_a_task stream/test_acknowledgement.py::test_what_was_not_acknowledged_returns_when_the_stream_breaks",
    ),
}
"""What none of the five passes, by its letter: what it is, and the tests."""
