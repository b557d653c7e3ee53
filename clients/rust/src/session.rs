//! A worker's presence: one stream after another, each resuming what the last one held. One loop has all of its state, so
//! that nothing is locked; each attempt at an activity is a task of Tokio's.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    panic::AssertUnwindSafe,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, TryFutureExt};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code::{self, InvalidArgument, NotFound, PermissionDenied, Unauthenticated, Unimplemented},
    Status,
};
use tonic_types::RpcStatusExt;

use crate::{
    attempt::{self, Attempt, outcome},
    client::jitter,
    error::{Error, Refusal, failure},
    pb::{
        Capacity, CapacityUpdate, ConnectRequest, ConnectResponse, FailActivity, Failure, Hello, ReleaseTask,
        ReportResult, Task, TaskKind, TaskRef, Welcome, report::Outcome, report_result::Remedy,
    },
    stream::Stream,
    worker::{Worker, identity},
};

/// All that is timed is done at a tick.
const TICK: Duration = Duration::from_millis(100);
const RECONNECT_FIRST: Duration = Duration::from_millis(200);
const RECONNECT_MOST: Duration = Duration::from_secs(30);
/// A session that is still held is sought several times before it ends.
const TRIES_A_SESSION: u32 = 4;
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
const SILENCE_MOST: Duration = Duration::from_secs(30);
/// The service's last answers to a worker that leaves may take so long.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// What another stream does not help against.
const FINAL: [Code; 5] = [InvalidArgument, NotFound, PermissionDenied, Unauthenticated, Unimplemented];

pub(crate) struct Session {
    worker: Worker,
    stream: Stream,
    /// Of the session. Empty if there is none.
    welcome: Welcome,
    /// All that it holds, by numbers of its own: those of their reports.
    attempts: BTreeMap<i64, Attempt>,
    last_number: i64,
    work: JoinSet<(i64, Outcome)>,
    /// What it has to say beside the attempts: a ping, a pong, that it leaves.
    signs: ConnectRequest,
    tries: u32,
    /// When it began to leave.
    leave_time: Option<Instant>,
}

impl Session {
    pub(crate) fn new(worker: Worker) -> Self {
        Self {
            stream: Stream::open(worker.client.clone(), hello(&worker), Duration::ZERO),
            worker,
            welcome: Welcome::default(),
            attempts: BTreeMap::new(),
            last_number: 0,
            work: JoinSet::new(),
            signs: ConnectRequest::default(),
            tries: 0,
            leave_time: None,
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_words = false;
        while !self.is_over() {
            let is_welcome = self.stream.is_welcome;
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if self.leave_time.is_none() => {
                    self.leave_time = Some(Instant::now());
                    self.signs.drain = true;
                }
                _ = ticks.tick() => self.tick()?,
                heard = self.stream.heard.next() => match heard {
                    Some(Ok(message)) => self.received(message),
                    Some(Err(status)) => self.broken(status)?,
                    None => self.broken(Status::unavailable("the service ended the stream"))?,
                },
                Some(Ok((number, outcome))) = self.work.join_next() => self.ended(number, outcome),
                // One message is under way at a time: what gathers meanwhile is the next.
                Ok(()) = self.stream.said.reserve().map_ok(drop), if is_welcome && has_words => {
                    has_words = self.say();
                    continue;
                }
            }
            has_words = true;
        }
        if self.stream.is_welcome {
            self.stream.close().await;
        }
        Ok(())
    }

    /// Says what there is to say. False if there was nothing.
    fn say(&mut self) -> bool {
        let mut message = mem::take(&mut self.signs);
        attempt::say(&mut self.attempts, &mut message, self.welcome.max_items.max(1) as usize);
        // What a broken stream does not take is said again after the resume.
        message != ConnectRequest::default() && self.stream.said.try_send(message).is_ok()
    }

    /// Opens a stream, also while the last one still stands. Gives that one.
    fn open(&mut self, delay: Duration) -> Stream {
        let held = self.attempts.values().filter_map(|attempt| attempt.task.clone()).collect();
        let hello = Hello { session_id: self.welcome.session_id.clone(), held, ..hello(&self.worker) };
        mem::replace(&mut self.stream, Stream::open(self.worker.client.clone(), hello, delay))
    }

    /// The stream has ended, or could not be opened. Gives the refusal back when another stream can't help.
    fn broken(&mut self, status: Status) -> Result<(), Error> {
        let refusal = Refusal::from(status);
        if FINAL.contains(&refusal.code) {
            return Err(Error::Refused(Box::new(refusal)));
        }
        if refusal.reason == "SESSION_EXPIRED" {
            self.attempts.clear();
            self.welcome = Welcome::default();
        }
        let most = duration(self.welcome.session_ttl).map_or(RECONNECT_MOST, |ttl| ttl / TRIES_A_SESSION);
        let delay = jitter(most.min(RECONNECT_FIRST * 2_u32.pow(self.tries.min(16))));
        let delay = delay + refusal.retry_after.unwrap_or_default();
        tracing::info!(%refusal, ?delay, "no stream");
        self.tries += 1;
        self.open(delay);
        Ok(())
    }

    fn welcomed(&mut self, welcome: Welcome) {
        tracing::info!(session = welcome.session_id, resumed = welcome.resumed, "connected");
        let held: HashSet<_> = welcome.held.iter().cloned().map(Some).collect();
        self.attempts.retain(|_, attempt| {
            attempt.due = Some(Instant::now());
            held.contains(&attempt.task) || (welcome.resumed && attempt.outcome.is_some())
        });
        self.welcome = welcome;
        // A new stream drains only once it is told.
        self.signs = ConnectRequest { drain: self.leave_time.is_some(), ..ConnectRequest::default() };
        self.stream.is_welcome = true;
        self.tries = 0;
        self.worker.connected.cancel();
    }

    /// Takes in a message: assigns first, since all else that it says may be about them.
    fn received(&mut self, message: ConnectResponse) {
        self.stream.patience = SILENCE_MOST;
        if let Some(welcome) = message.welcome {
            self.welcomed(welcome);
        }
        message.assigns.into_iter().for_each(|task| self.assigned(task));
        // A lost one reports all the same, so that its place is given back.
        let beats = message.heartbeats.into_iter().filter(|beat| beat.cancel_requested || beat.lost);
        let cancels = message.cancels.into_iter().map(|cancel| cancel.r#ref);
        let stopped: HashSet<_> = cancels.chain(beats.map(|beat| beat.r#ref)).collect();
        for attempt in self.attempts.values().filter(|attempt| stopped.contains(&attempt.task)) {
            attempt.context.stop.cancel();
        }
        let revoked: HashSet<_> = message.revokes.into_iter().map(|revoke| revoke.r#ref).collect();
        self.attempts.retain(|_, attempt| !revoked.contains(&attempt.task));
        message.results.into_iter().for_each(|result| self.answered(result));
        self.signs.pong = self.signs.pong.max(message.ping);
        if let Some(rotate) = message.rotate {
            self.stream.rotate_time = Some(Instant::now() + jitter(duration(rotate.within).unwrap_or_default()));
        }
    }

    /// Begins a task. One that it has already is acknowledged again, and goes on; an older grant of it is over.
    fn assigned(&mut self, mut task: Task) {
        let TaskRef { task_id, token } = task.r#ref.clone().unwrap_or_default();
        let is_same = |held: &&TaskRef| held.task_id == task_id;
        self.attempts.retain(|_, attempt| attempt.task.as_ref().filter(is_same).is_none_or(|held| held.token >= token));
        if self.attempts.values().any(|attempt| attempt.task.as_ref().filter(is_same).is_some()) {
            return self.signs.acks.extend(task.r#ref);
        }
        self.last_number += 1;
        let (number, input) = (self.last_number, task.input.take().unwrap_or_default());
        let mut attempt = Attempt::new(task);
        if let Some(activity) = self.worker.activities.get(&attempt.context.info().r#type) {
            let performance = AssertUnwindSafe(activity(attempt.context.clone(), input)).catch_unwind();
            self.work.spawn(performance.map(move |ended| (number, outcome(ended))));
        } else {
            attempt.report(Outcome::Release(ReleaseTask { reason: "its type is not known here".into() }));
        }
        self.attempts.insert(number, attempt);
    }

    fn ended(&mut self, number: i64, outcome: Outcome) {
        if let Some(attempt) = self.attempts.get_mut(&number).filter(|attempt| attempt.outcome.is_none()) {
            attempt.report(outcome);
        }
    }

    /// Takes in the answer to a report.
    fn answered(&mut self, result: ReportResult) {
        let remedy = result.remedy();
        let error = result.error.unwrap_or_default();
        if remedy != Remedy::Unspecified {
            tracing::info!(?remedy, error.message, "the report was refused");
        }
        let Some(attempt) = self.attempts.get_mut(&result.correlation) else { return };
        match remedy {
            Remedy::Repeat => attempt.due = Some(Instant::now() + duration(result.repeat_delay).unwrap_or_default()),
            Remedy::Fail => {
                let reason = error.get_details_error_info().map(|info| info.reason).unwrap_or_default();
                let failure = Failure { non_retryable: true, ..failure(&reason, &error.message) };
                attempt.report(Outcome::Fail(FailActivity { failure: Some(failure) }));
            }
            _ => _ = self.attempts.remove(&result.correlation),
        }
    }

    /// Does what is timed. What attempts have to say by now is said after it.
    fn tick(&mut self) -> Result<(), Error> {
        let (now, stream) = (Instant::now(), &mut self.stream);
        let interval = duration(self.welcome.heartbeat_interval).unwrap_or(HEARTBEAT_INTERVAL);
        if now - stream.ping_time >= interval.min(HEARTBEAT_INTERVAL) * 3 / 4 {
            stream.ping_time = now;
            self.signs.ping = 1;
        }
        if self.leave_time.is_some_and(|begin| now - begin >= self.worker.options.drain_time) {
            for attempt in self.attempts.values_mut().filter(|attempt| attempt.outcome.is_none()) {
                attempt.context.stop.cancel();
                attempt.report(Outcome::Release(ReleaseTask { reason: "the worker is leaving".into() }));
            }
        }
        if stream.rotate_time.is_some_and(|time| time <= now) {
            tokio::spawn(self.open(Duration::ZERO).close());
        }
        // By ticks, and not by the clock: who was held up himself has yet to read what came meanwhile.
        self.stream.patience = self.stream.patience.saturating_sub(TICK);
        if self.stream.patience.is_zero() {
            return self.broken(Status::unavailable("nothing was heard for too long"));
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let most = self.worker.options.drain_time.saturating_add(ANSWER_TIME);
        let is_done = self.attempts.is_empty() && !(self.signs.drain && self.stream.is_welcome);
        self.leave_time.is_some_and(|begin| is_done || begin.elapsed() > most)
    }
}

fn hello(worker: &Worker) -> Hello {
    let (kind, max_outstanding) = (TaskKind::Activity.into(), worker.options.max_activities);
    let capacity = Capacity { kind, max_outstanding, ..Capacity::default() };
    Hello {
        namespace: worker.client.namespace().to_owned(),
        worker_id: worker.options.worker_id.clone(),
        task_queues: worker.options.task_queues.clone(),
        activity_types: worker.activities.keys().cloned().collect(),
        identity: identity(),
        sdk: concat!("stepwell-rust/", env!("CARGO_PKG_VERSION")).into(),
        capacity: Some(CapacityUpdate { capacities: vec![capacity] }),
        ..Hello::default()
    }
}

/// None also for what is 0, which stands for nothing said, or less.
pub(crate) fn duration(given: Option<prost_types::Duration>) -> Option<Duration> {
    given.and_then(|given| given.try_into().ok()).filter(|given: &Duration| !given.is_zero())
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;
    use crate::{client::Client, worker::WorkerOptions};

    fn assign(session: &mut Session, token: i64) {
        let task = Task { r#ref: Some(TaskRef { task_id: "task".into(), token }), ..Task::default() };
        session.received(ConnectResponse { assigns: vec![task], ..ConnectResponse::default() });
    }

    #[tokio::test]
    async fn a_newer_grant_ends_the_older_one() {
        let client = Client::new(Endpoint::from_static("http://127.0.0.1:1")).unwrap();
        let mut session = Session::new(Worker::new(client, WorkerOptions::default()));
        assign(&mut session, 2);
        let older = session.attempts[&1].context.clone();
        // What comes again, or late, begins nothing.
        assign(&mut session, 2);
        assign(&mut session, 1);
        assert!(!older.cancellation().is_cancelled());
        assign(&mut session, 3);
        assert!(older.cancellation().is_cancelled());
        let held: Vec<_> = session.attempts.values().filter_map(|attempt| attempt.task.clone()).collect();
        assert_eq!(held, [TaskRef { task_id: "task".into(), token: 3 }]);
    }
}
