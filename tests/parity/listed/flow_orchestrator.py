"""The cases of FlowOrchestrator's own suites; see the package."""

from __future__ import annotations

from tests.parity.listed.reasons import ENGINE

_FLOW = "parity/test_flow_control.py::test_"
_FLOW_RUNS = "parity/test_flow_runs.py::test_"
_FLOW_SIGNALS = "parity/test_flow_signals.py::test_"
_STATISTICS = "parity/test_flow_statistics.py::test_"

FLOW_ORCHESTRATOR: dict[str, dict[str, str]] = {
    "Run store": {
        "StartRun_creates_run_with_Running_status": f"{_FLOW}StartRun_creates_run_with_Running_status",
        "Full_run_state_machine": f"{_FLOW_RUNS}Full_run_state_machine",
        "RecordStepStart_increments_attempt_counter": f"{_FLOW_RUNS}RecordStepStart_increments_attempt_counter",
        "GetRunDetail_returns_null_for_unknown_run": f"{_FLOW_RUNS}GetRunDetail_returns_null_for_unknown_run",
        "GetRunsPage_respects_skip_and_take": f"{_STATISTICS}GetRunsPage_respects_skip_and_take",
        "GetRunsPage_filters_by_status": f"{_STATISTICS}GetRunsPage_filters_by_status",
        "GetStatistics_returns_counts": f"{_STATISTICS}GetStatistics_returns_counts",
        "RetryStep_resets_step_and_run_to_Running": f"{_FLOW_RUNS}RetryStep_resets_step_and_run_to_Running",
        "GetActiveRuns_returns_running_runs": f"{_STATISTICS}GetActiveRuns_returns_running_runs",
        "GetRunsPage_search_matches_flow_name": f"{_STATISTICS}GetRunsPage_search_matches_flow_name",
    },
    "Run store in memory": {
        "attempt history keeps Pending then Succeeded": f"{_FLOW_RUNS}attempt_history_keeps_Pending_then_Succeeded",
        "filter by flow, skip and take; page by status; combinations; active list": (
            f"{_STATISTICS}GetRuns_filter_by_flow_skip_take {_STATISTICS}GetRunsPage_filters_by_status "
            f"{_STATISTICS}combination_flow_status_search_take_1 {_STATISTICS}GetActiveRuns_returns_running_runs"
        ),
        "search by job id, step key, error, old error, output": (
            f"{_STATISTICS}search_by_run_id_trigger_status_and_background_job_id "
            f"{_STATISTICS}search_by_step_key_error_output_and_an_old_attempt"
        ),
        "statistics and time series": (
            f"{_STATISTICS}GetStatistics_returns_counts {_STATISTICS}timeseries_hour_buckets "
            f"{_STATISTICS}timeseries_flow_filter {_STATISTICS}timeseries_empty_window_zero_buckets "
            f"{_STATISTICS}timeseries_day_buckets"
        ),
    },
    "Dispatch contract": {
        "first TryRecord true, second false": f"{_FLOW}first_TryRecord_true_second_false",
        "release then re-record true": f"{_FLOW}release_then_re_record_true",
        "dispatched set reflects 3 recorded less 1 released": (
            f"{_FLOW}dispatched_set_reflects_three_recorded_less_one_released"
        ),
    },
    "Run-control state machine": {
        "cancel twice": f"{_FLOW}cancel_twice",
        "timeout twice": f"{_FLOW}timeout_twice",
        "cancel then timeout": f"{_FLOW}cancel_then_timeout",
        "timeout then cancel": f"{_FLOW}timeout_then_cancel",
    },
    "Concurrency": {
        "64 parallel TryRecordDispatch": f"{_FLOW}64_parallel_TryRecordDispatch_exactly_one",
        "64 parallel TryClaim": f"{_FLOW_RUNS}64_parallel_TryClaim_exactly_one",
        "32 parallel TryRegisterIdempotencyKey": f"{_FLOW}32_parallel_TryRegisterIdempotencyKey_exactly_one",
        "8 loop keys by 4 replicas": f"{_FLOW}8_loop_keys_by_4_replicas_one_winner_a_key",
        "64 claims on `loop.3.child`": f"{_FLOW_RUNS}64_claims_on_a_loop_s_child",
        "16 replicas release and record again": f"{_FLOW}16_replicas_release_and_record_again",
        "one key under `manual` and `webhook`": f"{_FLOW}one_key_under_manual_and_webhook_is_two",
    },
    "Run control by the engine, invariants, recovery": {
        "one idempotency key, one run": "api/test_run_control_store.py::test_a_run_and_its_key_come_together",
        "cancelled or timed out: the step is not executed": ENGINE,
        "disabled flow": ENGINE,
        "dispatch=false, claim=false, trigger, Pending, spawn hint": ENGINE,
        "recovery enqueues once": "api/test_dispatch_store.py::test_what_nobody_claimed_is_given_out_once",
        "recovery of unknown flows, zombies": ENGINE,
    },
    "Terminal classifier, retry cascade, termination, planner": {
        "classifier (8)": f"{_FLOW_RUNS}terminal_rule",
        "retry cascade": (
            f"{_FLOW_RUNS}retry_cascade_a_b_c {_FLOW_RUNS}retry_cascade_leaves_d_that_was_never_reached "
            f"{_FLOW_RUNS}a_skip_for_a_different_reason_stays_Skipped "
            f"{_FLOW_RUNS}three_retries_then_success_is_four_attempts"
        ),
        "linear termination stress": ENGINE,
        "planner": "not ours: runs started from a graph are not built; the engine plans",
    },
    "Signals": {
        "register, get, re-register, deliver, already delivered, not found, remove": (
            f"{_FLOW_SIGNALS}register_get_round_trip {_FLOW_SIGNALS}re_register_updates_name_and_expiry "
            f"{_FLOW_SIGNALS}deliver_sets_payload_and_the_second_is_AlreadyDelivered "
            f"{_FLOW_SIGNALS}no_waiter_is_NotFound {_FLOW_SIGNALS}two_waiters_only_the_matching_one "
            f"{_FLOW_SIGNALS}remove_drops_the_row {_FLOW_SIGNALS}16_parallel_deliverers_once"
        ),
        "engine: happy path, two waiters, timeout, cancelled while waiting": ENGINE,
    },
    "Flow store and outputs": {
        "save and get, unknown, update, toggle, delete, list": (
            "parity/test_vyuh_workflows.py::test_create parity/test_vyuh_workflows.py::test_update "
            "parity/test_vyuh_workflows.py::test_activate parity/test_vyuh_workflows.py::test_delete "
            "parity/test_vyuh_workflows.py::test_list"
        ),
        "outputs repository": "not ours: a sister store of that engine; what a run puts out is its data, by `SetRunData`",
    },
    "Dashboard": {
        "re-run, lineage": (
            "api/test_run_control_store.py::test_a_re_run_is_as_the_run_was_but_for_its_key "
            "api/test_run_control_store.py::test_runs_derived_from_a_run_newest_first"
        ),
        "cancel closes a zombie; retry 404, 400, 200; endpoints 404; time series clamp": (
            "not ours: that dashboard's REST answers; the service's refusals are proven with each call"
        ),
        "schedules trigger, pause, resume, override": (
            "api/test_firings.py::test_a_trigger_starts_a_run_once_for_a_request_id "
            "api/test_firings.py::test_a_resumed_schedule_does_not_make_up_for_its_pause "
            "api/test_schedules.py::test_a_patch_reckons_the_next_firing_anew_and_keeps_the_rest"
        ),
    },
    "Cron dispatcher": {
        "computes the next run; remove; override replaces; paused": (
            "api/test_schedules.py::test_a_patch_reckons_the_next_firing_anew_and_keeps_the_rest "
            "api/test_overlaps.py::test_a_paused_schedule_is_patched_and_noted_and_does_not_fire "
            "api/test_schedules.py::test_a_schedule_is_made_found_listed_and_deleted"
        ),
        "failure marks state and the loop survives": (
            "api/test_firings.py::test_a_start_that_is_not_decided_on_is_tried_again"
        ),
        "trigger-once of an unknown one; a disabled flow removes": ENGINE,
    },
}
