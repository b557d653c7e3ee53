"""The cases that the mirrored stores' own suites list, each with what becomes of it here.

A case is proven by tests of ours (their paths below `tests/`, with blanks between), or `not ours:` because.
`docs/parity.md` shows them; `test_listed` sees that each test exists.
"""

from __future__ import annotations

_P = "parity/"
_ASSAY, _ACTIVITIES, _WORK, _PG = (
    f"{_P}test_assay.py::test_",
    f"{_P}test_assay_activities.py::test_",
    f"{_P}test_assay_work.py::test_",
    f"{_P}test_assay_postgres.py::test_",
)
_STEM, _WAITS, _SQUID = f"{_P}test_stem.py::test_", f"{_P}test_stem_waits.py::test_", f"{_P}test_squid_mesh.py::test_"
_FLOW, _FLOW_RUNS = f"{_P}test_flow_control.py::test_", f"{_P}test_flow_runs.py::test_"
_FLOW_SIGNALS = f"{_P}test_flow_signals.py::test_"
_STATISTICS = f"{_P}test_flow_statistics.py::test_"
_ENGINE = "not ours: a rule of that engine, which asks the store only for what is recorded"
_LUA = "not ours: a worker of that engine, in Lua"
_REST = "not ours: a REST answer; "

ASSAY: dict[str, dict[str, str]] = {
    "D1 store contract": {
        "namespace_roundtrip": f"{_ASSAY}namespace_roundtrip",
        "namespace_delete_and_stats": f"{_ASSAY}namespace_delete_and_stats",
        "workflow_create_get_roundtrip": f"{_ASSAY}workflow_create_get_roundtrip",
        "workflow_status_transitions": f"{_ASSAY}workflow_status_transitions",
        "workflow_claim": f"{_ASSAY}workflow_claim {_ASSAY}concurrent_workflow_claims_have_one_winner",
        "workflow_list_with_filters": f"{_ASSAY}workflow_list_with_filters",
        "workflow_task_dispatch": f"{_ASSAY}workflow_task_dispatch {_ASSAY}concurrent_task_claims_are_exclusive",
        "events_append_and_list": f"{_ASSAY}events_append_and_list api/test_event_store.py::test_assay_8_events_append_and_list",
        "search_attrs_upsert": f"{_P}test_assay_found.py::test_search_attrs_upsert",
        "workflow_archival": f"{_P}test_assay_archives.py::test_workflow_archival",
        "activity_create_and_claim": f"{_ACTIVITIES}activity_create_and_claim",
        "activity_retry_on_failure": f"{_ACTIVITIES}activity_retry_on_failure",
        "terminal_activity_retry_is_atomic_across_backends": (
            "not ours: `retry_failed_activity` is of a later version than the one mirrored; "
            "a run of ours is retried as a whole, in one transaction"
        ),
        "activity_heartbeat_timeout": f"{_ACTIVITIES}activity_heartbeat_timeout",
        "activity_cancel_pending": f"{_ACTIVITIES}activity_cancel_pending",
        "timer_create_and_fire": f"{_WORK}timer_create_and_fire",
        "timer_idempotent_on_seq": f"{_WORK}timer_idempotent_on_seq",
        "signal_send_and_consume": f"{_WORK}signal_send_and_consume",
        "schedule_crud": f"{_WORK}schedule_crud",
        "schedule_last_run_update": f"{_WORK}schedule_last_run_update",
        "schedule_does_not_fire_at_registration": (
            f"{_WORK}schedule_does_not_fire_at_registration "
            "api/test_firings.py::test_a_schedule_does_not_fire_when_it_is_made_and_fires_on_time"
        ),
        "schedule_with_elapsed_next_run_fires_on_catch_up": (
            "api/test_firings.py::test_a_first_time_that_has_passed_fires_once"
        ),
        "snapshot_create_and_get_latest": f"{_P}test_assay_found.py::test_snapshot_create_and_get_latest",
        "archival_end_to_end": f"{_P}test_assay_archives.py::test_archival_end_to_end",
        "worker_register_heartbeat_list": f"{_WORK}worker_register_heartbeat_list",
        "worker_remove_dead": f"{_WORK}worker_remove_dead",
        "queue_stats": f"{_WORK}queue_stats",
        "child_workflows_listing": f"{_ASSAY}child_workflows_listing",
        "leader_election": f"{_WORK}leader_election",
        "reaper_requeues_timed_out_activity_with_attempts_left": (
            f"{_ACTIVITIES}reaper_requeues_timed_out_activity_with_attempts_left "
            "api/test_activity_store.py::test_assay_30_and_32_the_service_looks_after_a_managed_run"
        ),
        "reaper_catches_activity_that_never_heartbeated": (
            f"{_ACTIVITIES}reaper_catches_activity_that_never_heartbeated"
        ),
        "reaper_fails_workflow_when_attempts_exhausted": f"{_ACTIVITIES}reaper_fails_workflow_when_attempts_exhausted",
    },
    "D2 Postgres store": {
        **{
            name: f"{_PG}{name}"
            for name in (
                "pg_workflow_create_and_get",
                "pg_workflow_list_by_namespace",
                "pg_workflow_claim_and_status",
                "pg_activity_claim_concurrent",
                "pg_events_and_signals",
                "pg_timers",
                "pg_schedules",
                "pg_namespace_stats",
                "pg_leader_lock",
                "pg_workers",
            )
        },
        "DDL splitter tolerates ';' in comments": (
            "not ours: a migration goes to Postgres as one script; nothing splits it"
        ),
    },
    "D3 orchestration": {
        "schedule_activity_creates_pending_row_and_event": (
            f"{_ACTIVITIES}activity_create_and_claim "
            "stream/test_orchestration.py::test_an_activity_is_in_history_and_advances_its_run_once"
        ),
        "schedule_activity_is_idempotent_on_seq": "api/test_activity_store.py::test_an_activity_is_created_once",
        "complete_activity_appends_event": (
            "stream/test_orchestration.py::test_an_activity_is_in_history_and_advances_its_run_once"
        ),
        "fail_activity_retries_until_max_attempts": (
            "stream/test_orchestration.py::test_an_activity_fails_for_good_after_its_last_attempt"
        ),
        "start_workflow_makes_it_dispatchable": (
            "stream/test_orchestration.py::test_an_activity_is_in_history_and_advances_its_run_once"
        ),
        "workflow_task_claim_is_exclusive": (
            f"{_ASSAY}concurrent_task_claims_are_exclusive "
            "stream/test_replicas.py::test_64_claimers_on_two_replicas_never_share_a_task"
        ),
        "submit_commands_schedules_activities_and_releases_claim": (
            "stream/test_orchestration.py::test_an_activity_is_in_history_and_advances_its_run_once"
        ),
        "activity_completion_redispatches_workflow": (
            "stream/test_orchestration.py::test_an_end_while_the_run_is_held_is_not_lost "
            "api/test_driven_runs.py::test_a_task_marked_while_it_is_claimed_is_handed_out_again"
        ),
        "complete_workflow_command_marks_terminal": (
            "stream/test_orchestration.py::test_an_activity_is_in_history_and_advances_its_run_once"
        ),
        "lua_workflow_runs_to_completion": ("sdk/test_orchestration.py::test_workflow_runs_to_completion"),
        "lua_workflow_with_signal": ("sdk/test_orchestration.py::test_workflow_with_signal_first_and_timer_first"),
        "lua_workflow_ctx_cancel_lands_in_cancelled_status": (
            "sdk/test_orchestration.py::test_ctx_cancel_lands_in_cancelled_status"
        ),
        "lua_workflow_namespace_scoping_end_to_end": (
            "sdk/test_orchestration.py::test_workflow_namespace_scoping_end_to_end"
        ),
        "wait_for_signal with a timeout, signal first and timer first": (
            "sdk/test_orchestration.py::test_workflow_with_signal_first_and_timer_first"
        ),
        "lua_cron_schedule_fires_real_workflow": "sdk/test_schedules.py::test_a_nightly_report",
        "lua_worker_crash_resumes_workflow": "chaos/test_kills.py::test_workers_killed_in_mid_step",
        "lua_workflow_side_effect_is_recorded_once": (
            "sdk/test_orchestration.py::test_side_effect_and_steps_of_one_name_are_recorded_once"
        ),
        "lua_child_workflow_completes_before_parent": (
            "sdk/test_orchestration.py::test_child_workflow_completes_before_parent"
        ),
        "lua_workflow_cancellation_stops_work": ("sdk/test_orchestration.py::test_workflow_cancellation_stops_work"),
        "lua_workflow_with_durable_timer": ("sdk/test_orchestration.py::test_workflow_with_durable_timer"),
        "register_query_exposes_live_state": (
            "sdk/test_updates.py::test_a_conversation sdk/test_updates.py::test_what_is_wrong_is_told_apart"
        ),
        "continue_as_new_starts_fresh_run": ("sdk/test_orchestration.py::test_continue_as_new_starts_fresh_run"),
        "execute_parallel_three_activities": (
            "sdk/test_orchestration.py::test_execute_parallel_three_activities_and_one_fails"
        ),
        "execute_parallel: one fails": (
            "sdk/test_orchestration.py::test_execute_parallel_three_activities_and_one_fails"
        ),
        "search_attributes_filter_list": f"{_P}test_assay_found.py::test_search_attributes_filter_list",
        "lua_stdlib_management_surface_roundtrips": _LUA,
        "CLI cases: lists of nothing, output, standard input, environment, what is not there, waits, schedules": (
            "sdk/test_cli_cases.py::test_a_list_of_nothing "
            "sdk/test_cli_cases.py::test_the_environment_standard_input_and_the_exit_codes "
            "sdk/test_cli_cases.py::test_namespaces_from_their_making_to_their_end "
            "sdk/test_cli_cases.py::test_a_patch_of_nothing_is_refused "
            "sdk/test_schedules.py::test_by_the_command sdk/test_cli.py::test_errors_say_what_to_do"
        ),
        "CLI cases: a file of settings, completion": "not ours: our command has neither; the environment does for the one",
    },
    "D4 REST": {
        "health": "api/test_server.py::test_health_tells_when_it_is_ready",
        "start_and_list": "api/test_runs.py::test_a_started_run_is_as_it_was_asked_for api/test_runs.py::test_newest_come_first",
        "explicit_ascending_order_uses_default_bounded_page": (
            "api/test_history.py::test_events_are_listed_in_both_directions api/test_page.py::test_sizes_are_coerced"
        ),
        "signal_and_cancel": (
            "api/test_steering.py::test_a_signal_is_recorded_once "
            "api/test_steering.py::test_a_run_that_nobody_has_begun_cancels_at_once"
        ),
        "cancel_accepts_any_body_shape": f"{_REST}a request has one shape, checked by the stubs",
        "worker_register_and_poll": f"{_WORK}worker_register_heartbeat_list",
        "schedule_crud": "api/test_schedules.py::test_a_schedule_is_made_found_listed_and_deleted",
        "workflow_not_found": ("api/test_runs.py::test_nothing_crosses_namespaces"),
        "schedule_create_returns_the_seeded_next_run_at": (
            "api/test_schedules.py::test_a_schedule_is_made_found_listed_and_deleted"
        ),
        "schedule_patch_updates_fields": (
            "api/test_schedules.py::test_a_patch_reckons_the_next_firing_anew_and_keeps_the_rest"
        ),
        "pause and resume": "api/test_firings.py::test_a_resumed_schedule_does_not_make_up_for_its_pause",
        "patch of a missing schedule": f"{_WORK}schedule_crud",
        "patch with a bad time zone": "api/test_schedules.py::test_bad_schedules_are_refused",
        "version shape": f"{_REST}a server tells its version in its logs and metrics",
        "retry_failed_activity_resumes_at_the_failure_boundary": (
            "mending/test_retry.py::test_failed_steps_are_done_anew_and_completed_ones_stay"
        ),
        "concurrent_retry_requests_schedule_the_failed_activity_once": (
            "sdk/test_orchestration.py::test_concurrent_retry_requests_schedule_the_failed_activity_once"
        ),
        "get_events of a missing workflow": f"{_ASSAY}events_append_and_list",
    },
    "D5 authentication": {
        "no_auth allows all": ("api/test_api_keys.py::test_who_asks_nobody_for_keys_makes_none"),
        "api_key: none, invalid, valid": (
            "api/test_access.py::test_without_a_key_nothing_is_answered "
            "api/test_access.py::test_what_is_no_key_is_malformed "
            "api/test_access.py::test_a_role_makes_its_own_calls_only"
        ),
        "jwt and combined": (
            "not ours: tokens of the HTTP server around that store, which has no method for them; here callers show API keys"
        ),
        "bootstrap create only while the table is empty": (
            "api/test_api_keys.py::test_the_first_key_is_not_made_by_a_call"
        ),
        "idempotent label": "api/test_api_keys.py::test_a_label_makes_a_key_once_if_asked",
    },
    "D6 scheduler and event bus": {
        "a time zone changes the next run; empty is UTC; bad ones": (
            "engine/test_schedules.py::test_times engine/test_schedules.py::test_what_names_no_times_is_refused"
        ),
        "seed honours the time zone and keeps an explicit next_run_at": (
            "engine/test_schedules.py::test_times api/test_firings.py::test_a_first_time_that_has_passed_fires_once"
        ),
        "bus: append and read; cursor skips earlier": (
            "api/test_watches.py::test_a_stream_goes_on_from_its_cursor_on_another_replica"
        ),
        "bus: local subscriber receives": "api/test_watches.py::test_a_stream_tells_how_runs_end",
        "bus: cross-node notification": "api/test_watches.py::test_two_replicas_hear_of_each_others_ends",
        "bus: prune by cutoff": "loops/test_pruner.py::test_old_batches_go",
        "bus: the listener survives": "loops/test_hints.py::test_hints_survive_a_killed_backend",
        "cursor before the oldest is gone (SSE: 410)": "api/test_watches.py::test_an_old_cursor_is_refused",
        "SSE replay from Last-Event-ID": "api/test_watches.py::test_whoever_begins_while_runs_end_misses_none",
    },
}

STEM: dict[str, dict[str, str]] = {
    "I1 store contract": {
        "createRun persists metadata and cursor defaults to zero": (
            f"{_STEM}create_run_persists_metadata_and_cursor_defaults_to_zero"
        ),
        "createRun honors caller-provided runId": f"{_STEM}create_run_honors_caller_provided_run_id",
        "createRun rejects duplicate caller-provided runId": (
            f"{_STEM}create_run_rejects_duplicate_caller_provided_run_id"
        ),
        "createRun persists runtime metadata and workflowParams strips internals": (
            f"{_STEM}create_run_persists_runtime_metadata_and_workflow_params_strips_internals"
        ),
        "saveStep/readStep/rewind": f"{_STEM}save_step_read_step_rewind",
        "saveStep refreshes updatedAt": f"{_STEM}save_step_refreshes_updated_at",
        "autoVersion checkpoints": f"{_STEM}auto_version_checkpoints",
        "listRuns reports logical cursor": f"{_STEM}list_runs_reports_logical_cursor",
        "suspendUntil/dueRuns/markResumed": f"{_WAITS}suspend_until_due_runs_mark_resumed",
        "claimRun leases": f"{_STEM}claim_run_leases {_STEM}concurrent_claims_have_one_winner",
        "listRunnableRuns excludes suspended runs": f"{_STEM}list_runnable_runs_excludes_suspended_runs",
        "dueRuns honors limit": f"{_WAITS}due_runs_honors_limit",
        "suspendOnTopic/runsWaitingOn/cancel": f"{_WAITS}suspend_on_topic_runs_waiting_on_cancel",
        "runsWaitingOn returns all on a topic": f"{_WAITS}runs_waiting_on_returns_all_on_a_topic",
        "registerWatcher resolves payload exactly_once": f"{_WAITS}register_watcher_resolves_payload_exactly_once",
        "listWatchers exposes deadline and data": f"{_WAITS}list_watchers_exposes_deadline_and_data",
        "markCompleted stores result": f"{_STEM}mark_completed_stores_result",
        "markFailed": f"{_STEM}mark_failed",
        "listRuns filters": f"{_STEM}list_runs_filters",
        "listSteps in execution order": f"{_STEM}list_steps_in_execution_order",
        "listSteps in versioned order": f"{_STEM}list_steps_in_versioned_order",
        "cancellation policy persisted": f"{_STEM}cancellation_policy_is_persisted",
        "cancel reason persisted": f"{_STEM}cancel_reason_is_persisted",
    },
    "I2 script facade": {
        "sequential steps": ("sdk/test_orchestration.py::test_side_effect_and_steps_of_one_name_are_recorded_once"),
        "sleep": "sdk/test_testing.py::test_a_month_and_two_retries_take_no_time",
        "autoVersion": ("sdk/test_orchestration.py::test_side_effect_and_steps_of_one_name_are_recorded_once"),
        "awaitEvent": "topics/test_runs.py::test_every_run_gets_the_event_with_its_type",
        "event resumption is enqueued on the persisted queue": (
            "stream/test_orchestration.py::test_an_event_brings_its_run_to_the_runs_own_queue"
        ),
    },
    "I3 runtime": {
        "executes and persists results": ("sdk/test_orchestration.py::test_workflow_runs_to_completion"),
        "runtime metadata stripped; parent id persisted but hidden": (
            f"{_STEM}create_run_persists_runtime_metadata_and_workflow_params_strips_internals"
        ),
        "child start and wait": ("sdk/test_orchestration.py::test_child_workflow_completes_before_parent"),
        "run detail views; manifest; lifecycle logs": "not ours: that runtime's own views and logs",
        "extends the lease when checkpoints persist": (
            "not ours: a code run's lease is its session's; an engine's own renews it as it likes"
        ),
        "retries when the lease is held by another runtime": f"{_STEM}claim_run_leases",
        "sleep suspends and resumes": "sdk/test_testing.py::test_a_month_and_two_retries_take_no_time",
        "awaitEvent payload": "topics/test_runs.py::test_every_run_gets_the_event_with_its_type",
        "emit persists payload before the worker resumes": f"{_WAITS}register_watcher_resolves_payload_exactly_once",
        "saveStep heartbeat": f"{_STEM}save_step_refreshes_updated_at",
        "sleep then event": ("sdk/test_orchestration.py::test_workflow_with_durable_timer"),
        "idempotency key stable over retry": "not ours: made by that runtime of ids that the store keeps",
        "autoVersion after rewind": "mending/test_rewind.py::test_exactly_the_steps_from_there_on_are_done_anew",
        "autoVersion over suspension": f"{_STEM}auto_version_checkpoints",
        "step events": ("stream/test_orchestration.py::test_an_activity_is_in_history_and_advances_its_run_once"),
        "failure: error propagates, status running": f"{_STEM}mark_failed",
        "cancel": ("sdk/test_orchestration.py::test_workflow_cancellation_stops_work"),
        "maxRunDuration": "ends/test_deadlines.py::test_a_run_that_takes_too_long_is_cancelled",
        "maxSuspendDuration": "ends/test_deadlines.py::test_a_run_that_is_suspended_too_long_is_cancelled",
        "enqueued tasks carry workflow metadata": "stream/test_order.py::test_a_fresh_task_goes_straight_to_a_waiting_worker",
        "policy unit tests": "not ours: that client's spelling of a policy; ours is a message",
    },
    "I4 lock store, broker, queue events, revoke store, result backend": {
        "lock store: one holder, renewal, expiry, another's renewal": (
            "api/test_leader_store.py::test_assay_29_leader_election "
            "api/test_leader_store.py::test_a_leader_whose_time_is_over_is_followed_under_a_higher_token "
            "api/test_leader_store.py::test_one_of_many_leads"
        ),
        "lock store: release, who holds it": (
            "not ours: a leadership is not given up before its time, and only who asks for it hears who has it"
        ),
        "broker (16)": (
            "not ours: a task queue is no broker; what it stands for is proven by `tests/stream`: "
            "acknowledgement, return, priority, delay"
        ),
        "queue events (5)": "not ours: `WatchRuns` tells of ends; there are no queues of events",
        "revoke store (4)": "not ours: a running task is cancelled by its run or its job, not by a list of revoked ids",
        "result backend: set, get, watch, expiry, heartbeats": (
            "api/test_job_ends.py::test_a_wait_ends_with_the_job_on_either_replica "
            "stream/test_jobs.py::test_a_failed_attempt_is_tried_again_with_the_details_it_left "
            "loops/test_jobs.py::test_a_job_is_forgotten_when_its_own_retention_is_over"
        ),
        "result backend: groups, chords": "not ours: work that belongs together is the code of a run",
    },
}

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
        "cancelled or timed out: the step is not executed": _ENGINE,
        "disabled flow": _ENGINE,
        "dispatch=false, claim=false, trigger, Pending, spawn hint": _ENGINE,
        "recovery enqueues once": "api/test_dispatch_store.py::test_what_nobody_claimed_is_given_out_once",
        "recovery of unknown flows, zombies": _ENGINE,
    },
    "Terminal classifier, retry cascade, termination, planner": {
        "classifier (8)": f"{_FLOW_RUNS}terminal_rule",
        "retry cascade": (
            f"{_FLOW_RUNS}retry_cascade_a_b_c {_FLOW_RUNS}retry_cascade_leaves_d_that_was_never_reached "
            f"{_FLOW_RUNS}a_skip_for_a_different_reason_stays_Skipped "
            f"{_FLOW_RUNS}three_retries_then_success_is_four_attempts"
        ),
        "linear termination stress": _ENGINE,
        "planner": "not ours: runs started from a graph are not built; the engine plans",
    },
    "Signals": {
        "register, get, re-register, deliver, already delivered, not found, remove": (
            f"{_FLOW_SIGNALS}register_get_round_trip {_FLOW_SIGNALS}re_register_updates_name_and_expiry "
            f"{_FLOW_SIGNALS}deliver_sets_payload_and_the_second_is_AlreadyDelivered "
            f"{_FLOW_SIGNALS}no_waiter_is_NotFound {_FLOW_SIGNALS}two_waiters_only_the_matching_one "
            f"{_FLOW_SIGNALS}remove_drops_the_row {_FLOW_SIGNALS}16_parallel_deliverers_once"
        ),
        "engine: happy path, two waiters, timeout, cancelled while waiting": _ENGINE,
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
        "trigger-once of an unknown one; a disabled flow removes": _ENGINE,
    },
}

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
        "signal to a wrong node; duplicate signal": _ENGINE,
    },
}

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
        "stream/test_replicas.py::test_an_end_on_one_replica_advances_a_run_on_the_other_within_a_second stream/test_replicas.py::test_64_claimers_on_two_replicas_never_share_a_task stream/test_acknowledgement.py::test_what_was_not_acknowledged_returns_when_the_stream_breaks",
    ),
}
"""What none of the five passes, by its letter: what it is, and the tests."""

STORES: dict[str, dict[str, dict[str, str]]] = {
    "assay": ASSAY,
    "stem": STEM,
    "FlowOrchestrator": FLOW_ORCHESTRATOR,
    "Vyuh": VYUH,
    "SquidMesh": SQUID_MESH,
}
