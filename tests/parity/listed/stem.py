"""The cases of stem's own suites; see the package."""

from __future__ import annotations

_STEM = "parity/test_stem.py::test_"
_WAITS = "parity/test_stem_waits.py::test_"

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
