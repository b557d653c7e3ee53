"""The cases of assay's own suites; see the package."""

from __future__ import annotations

_P = "parity/"
_ASSAY = "parity/test_assay.py::test_"
_ACTIVITIES = "parity/test_assay_activities.py::test_"
_WORK = "parity/test_assay_work.py::test_"
_PG = "parity/test_assay_postgres.py::test_"
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
