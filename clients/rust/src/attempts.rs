//! The session's attempts at activities: from their assignment to the answer to their report.

use std::{any::Any, sync::Arc, time::Duration};

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    client::jitter,
    error::{ActivityError, Refusal},
    pb::{
        CancelledActivity, CompleteActivity, FailActivity, Failure, Payload, ReleaseTask, Report, ReportResult, Task,
        TaskHeartbeat, TaskRef, report, report_result,
    },
    session::{Due, Session, duration},
    worker::{ActivityContext, ActivityInfo, Beat, Outcome},
};

/// Between two heartbeats of an attempt on the wire, where the service demands none.
const BEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Before a report goes out again that was refused in passing without advice when to.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How often a report is sent at which the service itself fails.
const FAULTS_MOST: u32 = 5;

/// One attempt that the session holds.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) task: TaskRef,
    stop: CancellationToken,
    beat_interval: Duration,
    details: Option<Payload>,
    has_beaten: bool,
    is_throttled: bool,
    is_reported: bool,
    faults: u32,
}

impl Session {
    /// Acknowledges a task and begins it.
    pub(crate) fn assigned(&mut self, task: Task) {
        let task_ref = task.r#ref.clone().unwrap_or_default();
        if self.find(&task_ref).is_some() {
            self.outbox.acknowledge(task_ref);
            return;
        }
        let timeout = duration(task.heartbeat_timeout);
        let attempt = Attempt {
            task: task_ref.clone(),
            stop: CancellationToken::new(),
            beat_interval: timeout.map_or(BEAT_INTERVAL, |timeout| timeout / 2),
            details: None,
            has_beaten: false,
            is_throttled: false,
            is_reported: false,
            faults: 0,
        };
        let context = ActivityContext {
            info: Arc::new(ActivityInfo::from(&task)),
            task: task_ref.clone(),
            details: task.heartbeat_details,
            stop: attempt.stop.clone(),
            beats: self.beat.clone(),
        };
        if let Some(former) = self.attempts.insert(task_ref.task_id.clone(), attempt) {
            former.stop.cancel();
        }
        let Some(activity) = self.worker.activities.get(&task.r#type) else {
            let reason = format!("{} is not known here", task.r#type);
            return self.report(&task_ref, released(reason));
        };
        self.outbox.acknowledge(task_ref.clone());
        let performance = activity(context, task.input.unwrap_or_default());
        self.workers.insert(self.work.spawn(performance).id(), task_ref);
    }

    fn find(&mut self, task: &TaskRef) -> Option<&mut Attempt> {
        self.attempts.get_mut(&task.task_id).filter(|attempt| attempt.task == *task)
    }

    /// Asks an attempt to stop.
    pub(crate) fn cancelled(&mut self, task: &TaskRef) {
        if let Some(attempt) = self.find(task) {
            attempt.stop.cancel();
        }
    }

    /// An attempt is another's now; nothing is reported.
    pub(crate) fn drop_attempt(&mut self, task: &TaskRef) {
        if self.find(task).is_some() {
            self.remove(task);
        }
    }

    fn remove(&mut self, task: &TaskRef) {
        if let Some(attempt) = self.attempts.remove(&task.task_id) {
            attempt.stop.cancel();
        }
    }

    /// Drops all that is not held any more, unless its report was never answered.
    pub(crate) fn drop_all_but(&mut self, held: &[TaskRef]) {
        let outbox = &self.outbox;
        self.attempts.retain(|_, attempt| {
            let stays = held.contains(&attempt.task) || outbox.is_unanswered(&attempt.task);
            if !stays {
                attempt.stop.cancel();
            }
            stays
        });
    }

    /// Notes a heartbeat, and sends it unless the last one was only just sent.
    pub(crate) fn beaten(&mut self, beat: Beat) {
        let Some(attempt) = self.find(&beat.task).filter(|attempt| !attempt.is_reported) else {
            return;
        };
        attempt.has_beaten = true;
        attempt.details = beat.details.or(attempt.details.take());
        if !attempt.is_throttled {
            self.send_beat(&beat.task);
        }
    }

    fn send_beat(&mut self, task: &TaskRef) {
        let Some(attempt) = self.find(task).filter(|attempt| attempt.has_beaten) else {
            return;
        };
        attempt.has_beaten = false;
        attempt.is_throttled = true;
        let (details, interval) = (attempt.details.clone(), attempt.beat_interval);
        let beat = TaskHeartbeat { r#ref: Some(task.clone()), details, ..TaskHeartbeat::default() };
        self.outbox.heartbeat(beat);
        self.later(Due::Breathe(task.clone()), interval);
    }

    /// Sends what gathered since the last heartbeat.
    pub(crate) fn breathe(&mut self, task: &TaskRef) {
        if let Some(attempt) = self.find(task).filter(|attempt| !attempt.is_reported) {
            attempt.is_throttled = false;
            self.send_beat(task);
        }
    }

    /// Reports what an attempt came to.
    pub(crate) fn ended(&mut self, task: &TaskRef, outcome: Result<Outcome, JoinError>) {
        let Some(attempt) = self.find(task).filter(|attempt| !attempt.is_reported) else {
            return;
        };
        let is_cancelled = attempt.stop.is_cancelled();
        let outcome = match outcome {
            Ok(Ok(result)) => report::Outcome::Complete(CompleteActivity { result: Some(result) }),
            Ok(Err(ActivityError::Cancelled)) if is_cancelled => {
                report::Outcome::Cancelled(CancelledActivity::default())
            }
            Ok(Err(error)) => failed(error),
            Err(error) => failed(panicked(error)),
        };
        // What the next attempt needs to know goes out before it can begin.
        self.send_beat(task);
        self.report(task, outcome);
    }

    fn report(&mut self, task: &TaskRef, outcome: report::Outcome) {
        if let Some(attempt) = self.find(task) {
            attempt.is_reported = true;
            self.outbox.report(task.clone(), outcome);
        }
    }

    /// Takes in the answer to a report.
    pub(crate) fn answered(&mut self, result: ReportResult) {
        let Some(report) = self.outbox.answered(result.correlation) else {
            return;
        };
        let task = report.r#ref.clone().unwrap_or_default();
        let is_refused = result.status() == report_result::Status::Refused;
        let refusal = result.error.filter(|_| is_refused).map(Refusal::from);
        let Some(attempt) = self.find(&task) else {
            return;
        };
        let Some(refusal) = refusal else {
            return self.remove(&task);
        };
        tracing::info!(%refusal, "the report was refused");
        attempt.faults += u32::from(refusal.reason == "INTERNAL_ERROR");
        let is_passing = refusal.is_passing() || refusal.reason == "INTERNAL_ERROR";
        if is_passing && attempt.faults < FAULTS_MOST {
            let delay = refusal.retry_after.unwrap_or_default() + jitter(REPORT_INTERVAL);
            self.later(Due::Again(Box::new(report)), delay);
            return;
        }
        match (refusal.code, report.outcome) {
            (_, None | Some(report::Outcome::Release(_))) => self.remove(&task),
            // What can't be recorded would not be at another attempt.
            (Code::InvalidArgument | Code::ResourceExhausted, Some(report::Outcome::Fail(_))) => {
                self.report(&task, released(refusal.to_string()));
            }
            (Code::InvalidArgument | Code::ResourceExhausted, _) => {
                let error = ActivityError::new(&refusal.reason, refusal.to_string());
                self.report(&task, failed(error.non_retryable()));
            }
            _ => self.remove(&task),
        }
    }

    /// Sends a report again, if its task is still held.
    pub(crate) fn again(&mut self, report: Report) {
        let task = report.r#ref.unwrap_or_default();
        if let Some(outcome) = report.outcome {
            self.report(&task, outcome);
        }
    }

    /// Gives back what has not ended. Its functions are told to stop, and dropped with the session.
    pub(crate) fn release_all(&mut self) {
        let open = self.attempts.values().filter(|attempt| !attempt.is_reported);
        for task in open.map(|attempt| attempt.task.clone()).collect::<Vec<_>>() {
            self.send_beat(&task);
            self.report(&task, released("the worker is leaving"));
            self.cancelled(&task);
        }
    }
}

fn released(reason: impl Into<String>) -> report::Outcome {
    report::Outcome::Release(ReleaseTask { reason: reason.into() })
}

fn failed(error: ActivityError) -> report::Outcome {
    let failure = match error {
        ActivityError::Failed(failure) => *failure,
        ActivityError::Cancelled => Failure {
            r#type: "Cancelled".into(),
            message: "it stopped though nobody asked for it".into(),
            ..Failure::default()
        },
    };
    report::Outcome::Fail(FailActivity { failure: Some(failure) })
}

fn panicked(error: JoinError) -> ActivityError {
    let said = error.try_into_panic().map_or_else(|error| error.to_string(), |value| said(&*value));
    ActivityError::new("Panic", said)
}

fn said(value: &(dyn Any + Send)) -> String {
    let text = value.downcast_ref::<&str>().copied();
    let text = text.or_else(|| value.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}
