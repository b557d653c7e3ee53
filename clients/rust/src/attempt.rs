//! One attempt at an activity, as its function and as its session see it.

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    error::{ActivityError, failure},
    payload::{PayloadError, from_payload, to_payload},
    pb::{
        CancelledActivity, CompleteActivity, ConnectRequest, FailActivity, Payload, Report, Task, TaskHeartbeat,
        TaskRef, report::Outcome,
    },
    session::duration,
};

/// A message takes no more once it has so many bytes: it stays below 1 MB unless one thing alone has half of that.
const MESSAGE_BYTES: usize = 500_000;

/// Between two heartbeats on the wire, where the service demands none.
const BEAT_INTERVAL: Duration = Duration::from_secs(5);

/// What an activity's function knows of its attempt, and tells of it. Clones are of the same attempt.
#[derive(Clone, Debug)]
pub struct ActivityContext {
    task: Arc<Task>,
    details: watch::Sender<Option<Payload>>,
    pub(crate) stop: CancellationToken,
}

impl ActivityContext {
    /// Which attempt of what it is: the task as the service gave it, but for the input. Its `type` is the activity's, its
    /// `job_id` is empty for an activity of a run.
    #[must_use]
    pub fn info(&self) -> &Task {
        &self.task
    }

    /// Says that the activity is alive and how far it is; the next attempt gets the details. It does not wait, and may be
    /// called as often as one likes: what comes faster than is needed goes out later.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Write`], [`PayloadError::TooLarge`].
    pub fn heartbeat<T: Serialize + ?Sized>(&self, details: &T) -> Result<(), PayloadError> {
        self.details.send_replace(Some(to_payload(details)?));
        Ok(())
    }

    /// Says that the activity is alive. The details stay as they are.
    pub fn alive(&self) {
        self.details.send_modify(|_| {});
    }

    /// Reads what the attempt before told last. None if it told nothing.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Read`], [`PayloadError::Bytes`].
    pub fn heartbeat_details<T: DeserializeOwned>(&self) -> Result<Option<T>, PayloadError> {
        self.task.heartbeat_details.as_ref().map(|details| from_payload(Some(details))).transpose()
    }

    /// Is cancelled once the activity should stop: somebody asked for it, or the task is not this worker's any more. The
    /// function should end then, by [`ActivityError::Cancelled`] if it stopped for that.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits for something, unless the activity should stop first.
    ///
    /// # Errors
    ///
    /// [`ActivityError::Cancelled`].
    pub async fn unless_cancelled<T>(&self, future: impl Future<Output = T>) -> Result<T, ActivityError> {
        self.stop.run_until_cancelled(future).await.ok_or(ActivityError::Cancelled)
    }
}

/// An attempt that a session holds. Its function is told to stop when it is dropped.
pub(crate) struct Attempt {
    pub(crate) task: Option<TaskRef>,
    pub(crate) context: ActivityContext,
    details: watch::Receiver<Option<Payload>>,
    beat_time: Option<Instant>,
    /// What is reported, until that is answered.
    pub(crate) outcome: Option<Outcome>,
    /// When to report it, or, while there is nothing to report, to acknowledge the task. None: that is said.
    pub(crate) due: Option<Instant>,
    _stop: DropGuard,
}

impl Attempt {
    pub(crate) fn new(task: Task) -> Self {
        let (told, details) = watch::channel(None);
        let stop = CancellationToken::new();
        let context = ActivityContext { task: Arc::new(task), details: told, stop: stop.clone() };
        let (task, due) = (context.task.r#ref.clone(), Some(Instant::now()));
        Self { task, context, details, beat_time: None, outcome: None, due, _stop: stop.drop_guard() }
    }

    pub(crate) fn report(&mut self, outcome: Outcome) {
        (self.outcome, self.due) = (Some(outcome), Some(Instant::now()));
    }

    /// Tells whether a heartbeat is to go out. The last one goes ahead of the report: the next attempt begins with it.
    fn has_beat(&self, now: Instant) -> bool {
        let interval = duration(self.context.task.heartbeat_timeout).map_or(BEAT_INTERVAL, |timeout| timeout / 2);
        let is_time = self.beat_time.is_none_or(|time| now - time >= interval);
        let may_beat = if self.outcome.is_some() { self.due.is_some() } else { is_time };
        may_beat && self.details.has_changed().is_ok_and(|has| has)
    }
}

/// Adds to a message what attempts have to say, of each one thing at most. Reports bear their numbers.
pub(crate) fn say(attempts: &mut BTreeMap<i64, Attempt>, message: &mut ConnectRequest, max_items: usize) {
    let now = Instant::now();
    for (&correlation, attempt) in attempts {
        if attempt.has_beat(now) {
            attempt.beat_time = Some(now);
            let details = attempt.details.borrow_and_update().clone();
            message.heartbeats.push(TaskHeartbeat { r#ref: attempt.task.clone(), details, ..TaskHeartbeat::default() });
        } else if attempt.due.is_some_and(|due| due <= now) {
            attempt.due = None;
            match attempt.outcome.clone() {
                None => message.acks.extend(attempt.task.clone()),
                outcome => message.reports.push(Report { correlation, r#ref: attempt.task.clone(), outcome }),
            }
        } else {
            continue;
        }
        let items = message.acks.len() + message.heartbeats.len() + message.reports.len();
        if items >= max_items || message.encoded_len() > MESSAGE_BYTES {
            break;
        }
    }
}

/// What is reported of what a function came to, or panicked with.
pub(crate) fn outcome(ended: Result<Result<Payload, ActivityError>, Box<dyn Any + Send>>) -> Outcome {
    let failure = match ended {
        Ok(Ok(result)) => return Outcome::Complete(CompleteActivity { result: Some(result) }),
        Ok(Err(ActivityError::Cancelled)) => return Outcome::Cancelled(CancelledActivity::default()),
        Ok(Err(ActivityError::Failed(failure))) => *failure,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            failure("Panic", text.unwrap_or("a panic without a text"))
        }
    };
    Outcome::Fail(FailActivity { failure: Some(failure) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{Failure, ReleaseTask};

    fn attempts(count: i64) -> BTreeMap<i64, Attempt> {
        let task = |id: i64| Task { r#ref: Some(TaskRef { task_id: id.to_string(), token: 1 }), ..Task::default() };
        (1..=count).map(|number| (number, Attempt::new(task(number)))).collect()
    }

    fn said(attempts: &mut BTreeMap<i64, Attempt>, max_items: usize) -> ConnectRequest {
        let mut message = ConnectRequest::default();
        say(attempts, &mut message, max_items);
        message
    }

    fn correlations(message: &ConnectRequest) -> Vec<i64> {
        message.reports.iter().map(|report| report.correlation).collect()
    }

    fn released() -> Outcome {
        Outcome::Release(ReleaseTask::default())
    }

    #[test]
    fn unanswered_reports_go_out_again_when_they_are_due() {
        let mut attempts = attempts(3);
        attempts.values_mut().for_each(|attempt| attempt.report(released()));
        assert_eq!(correlations(&said(&mut attempts, 256)), [1, 2, 3]);
        assert_eq!(said(&mut attempts, 256), ConnectRequest::default());
        let now = Instant::now();
        for (number, attempt) in &mut attempts {
            attempt.due = Some(if *number == 2 { now + Duration::from_secs(1_000) } else { now });
        }
        assert_eq!(correlations(&said(&mut attempts, 256)), [1, 3]);
        assert_eq!(said(&mut attempts, 256), ConnectRequest::default());
    }

    #[test]
    fn the_last_heartbeat_goes_before_the_report_and_none_behind_it() {
        let mut attempts = attempts(1);
        let context = attempts[&1].context.clone();
        context.heartbeat(&1).unwrap();
        assert_eq!(said(&mut attempts, 256).heartbeats.len(), 1);
        context.heartbeat(&2).unwrap();
        context.alive();
        assert_eq!(said(&mut attempts, 256).acks.len(), 1);
        // It was only just told of, and what is new waits for the interval, or the end.
        assert_eq!(said(&mut attempts, 256), ConnectRequest::default());
        attempts.get_mut(&1).unwrap().report(released());
        assert_eq!(said(&mut attempts, 256).heartbeats[0].details, Some(to_payload(&2).unwrap()));
        assert_eq!(correlations(&said(&mut attempts, 256)), [1]);
        context.heartbeat(&3).unwrap();
        assert_eq!(said(&mut attempts, 256), ConnectRequest::default());
    }

    #[test]
    fn no_message_holds_too_much() {
        let mut attempts = attempts(6);
        (1..=3).for_each(|number| attempts[&number].context.alive());
        (3..=5).for_each(|number| attempts.get_mut(&number).unwrap().report(released()));
        let mut numbers = Vec::new();
        for _ in 0..9 {
            let message = said(&mut attempts, 2);
            assert!(message.acks.len() + message.heartbeats.len() + message.reports.len() <= 2);
            numbers.extend(correlations(&message));
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [3, 4, 5]);
        assert_eq!(said(&mut attempts, 2), ConnectRequest::default());
    }

    #[test]
    fn no_message_is_too_large() {
        let mut attempts = attempts(5);
        for attempt in attempts.values_mut() {
            let failure = Failure { message: "x".repeat(400_000), ..Failure::default() };
            attempt.report(Outcome::Fail(FailActivity { failure: Some(failure) }));
        }
        let sizes = [2, 2, 1].map(|count| (count, said(&mut attempts, 256)));
        assert!(sizes.iter().all(|(count, message)| message.reports.len() == *count));
        assert!(sizes.iter().all(|(_, message)| message.encoded_len() < 1_000_000));
    }
}
