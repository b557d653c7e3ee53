"""The cases of SquidMesh's own suites; see the package."""

from __future__ import annotations

_ACTIVITIES = "parity/test_assay_activities.py::test_"
_STEM = "parity/test_stem.py::test_"
_SQUID = "parity/test_squid_mesh.py::test_"

SQUID_MESH: dict[str, dict[str, str]] = {
    "C.4 StepRunStore": {
        "4 concurrent begin_step": f"{_SQUID}four_concurrent_begin_step_execute_once",
        "schedule, begin": f"{_SQUID}schedule_then_begin_keeps_id_and_input",
        "stale complete and fail": f"{_SQUID}stale_complete_and_fail_are_refused",
        "compensation order, newest completed first": (f"{_SQUID}completed_steps_are_in_the_order_of_their_completion"),
    },
    "C.4 AttemptStore": {
        "numbering 1, 2; count and latest": "parity/test_squid_mesh_attempts.py::test_attempts_are_numbered",
        "4 concurrent begins": "parity/test_squid_mesh_attempts.py::test_concurrent_begins_have_numbers_of_their_own",
        "fail after complete": "parity/test_squid_mesh_attempts.py::test_fail_after_complete_is_stale",
    },
    "C.4 state machine and retry policy": {
        "states, moves, terminal set": (
            "engine/test_states.py::test_a_command_in_a_situation "
            "engine/test_states.py::test_the_tables_of_moves_close "
            "api/test_driven_runs.py::test_only_legal_moves_of_driven_runs"
        ),
        "retry policy and backoff": (
            "engine/test_retries.py::test_the_delay_after_an_attempt "
            "engine/test_retries.py::test_growth_beyond_all_numbers_is_the_maximum"
        ),
    },
    "C.4 runtime": {
        "duplicate delivery of a running step": f"{_SQUID}four_concurrent_begin_step_execute_once",
        "stale delivery after the run advanced": "stream/test_reports.py::test_a_stale_token_is_refused_for_progress",
        "completed step, run behind: reconciled": (
            "stream/test_leases.py::test_a_progress_sent_again_over_a_new_stream_is_a_duplicate_with_the_same_ordinals"
        ),
        "stale running skipped, or reclaimed after a timeout": (
            "stream/test_leases.py::test_what_was_acknowledged_stays_for_the_session_and_goes_back_when_it_expires"
        ),
        "dependency jobs, joins, fan-out": "not ours: that runtime's planning",
        "two parallel roots failing with retries": "sdk/test_gathers.py::test_a_failure_waits_for_the_others_and_does_not_stop_them",
        "dispatch failure rolls back": "not ours: a dispatch is a row of the same transaction",
        "cancelling and stale delivery": (
            "stream/test_cancellation.py::test_a_cancelled_step_that_was_not_sent_yet_is_withdrawn"
        ),
        "a scheduled step keeps its input": f"{_SQUID}schedule_then_begin_keeps_id_and_input",
    },
    "C.4 runs": {
        "list newest first, filters, limit": "api/test_runs.py::test_newest_come_first api/test_runs.py::test_lists_are_filtered",
        "malformed id, unknown id": (
            "api/test_fields.py::test_uuids_are_of_the_usual_form api/test_runs.py::test_nothing_crosses_namespaces"
        ),
        "replay links its source": "api/test_run_control_store.py::test_a_re_run_is_as_the_run_was_but_for_its_key",
        "start rolls back if dispatch fails": "not ours: a dispatch is a row of the same transaction",
        "payload validation": "not ours: payloads are opaque to the service",
    },
    "C.4 protocol": {
        "claim before visible": f"{_ACTIVITIES}activity_retry_on_failure",
        "a live lease hides; an expired one gives a new fence": (
            f"{_STEM}claim_run_leases api/test_driven_runs.py::test_a_stale_token_is_refused_everywhere"
        ),
        "an expired owner cannot heartbeat, complete, fail or retry": (
            f"{_STEM}whose_lease_went_to_another_writes_no_more stream/test_leases.py::test_a_lost_session_s_reports_change_nothing"
        ),
        "a stale token is rejected before writing": "stream/test_reports.py::test_a_stale_token_is_refused_and_changes_nothing",
        "duplicate completion; another result": (
            "stream/test_reports.py::test_the_same_report_twice_is_a_duplicate_and_recorded_once "
            "stream/test_reports.py::test_another_end_after_the_first_is_refused"
        ),
        "a terminal run fences claims": ("api/test_driven_runs.py::test_what_has_ended_stays_as_it_is"),
    },
}
