//! A worker's presence: one stream after another, each resuming what the last one held. One task of Tokio's has all of its
//! state, so that nothing is locked; each attempt at an activity is a task of its own.

use std::{collections::HashMap, time::Duration};

use tokio::{
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_stream::StreamExt;
use tokio_util::{
    sync::CancellationToken,
    task::AbortOnDropHandle,
    time::{DelayQueue, delay_queue},
};
use tonic::Code;

use crate::{
    attempts::Attempt,
    client::jitter,
    error::Error,
    outbox::Outbox,
    pb::{Capacity, CapacityUpdate, ConnectResponse, Hello, Report, TaskKind, TaskRef, Welcome},
    stream::{Stream, Turn, turn},
    worker::{Beat, Outcome, Worker, identity},
};

const RECONNECT_FIRST: Duration = Duration::from_millis(200);
const RECONNECT_MOST: Duration = Duration::from_secs(30);
/// A session that is still held is sought several times before it ends.
const TRIES_A_SESSION: u32 = 4;
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const SILENCE_BEFORE_PING: Duration = Duration::from_secs(20);
const SILENCE_BEFORE_DEATH: Duration = Duration::from_secs(30);
/// Who was held up for so long himself has yet to read what came meanwhile.
const HELD_UP: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(5);

type Opened = Result<(Stream, ConnectResponse), Error>;

/// What is to be done at a time.
#[derive(Debug)]
pub(crate) enum Due {
    /// Opens a stream, also beside one that stands.
    Connect,
    /// Shows life, and looks whether the service does.
    Watch,
    /// Sends the heartbeat that gathered since the task's last one.
    Breathe(TaskRef),
    /// Sends a report again that was refused in passing.
    Again(Box<Report>),
    /// Gives back what has not ended since the worker was told to leave.
    Release,
    /// Leaves without the answers that have not come.
    Leave,
}

pub(crate) struct Session {
    pub(crate) worker: Worker,
    pub(crate) outbox: Outbox,
    pub(crate) timers: DelayQueue<Due>,
    /// What it holds, by the tasks' ids.
    pub(crate) attempts: HashMap<String, Attempt>,
    pub(crate) work: JoinSet<Outcome>,
    pub(crate) workers: HashMap<Id, TaskRef>,
    pub(crate) beats: mpsc::UnboundedReceiver<Beat>,
    pub(crate) beat: mpsc::UnboundedSender<Beat>,
    hello: Hello,
    shutdown: CancellationToken,
    stream: Option<Stream>,
    opening: Option<AbortOnDropHandle<Opened>>,
    connecting: Option<delay_queue::Key>,
    tries: u32,
    backoff: Duration,
    interval: Duration,
    watched: Instant,
    pings: i64,
    is_draining: bool,
    is_over: bool,
}

impl Session {
    pub(crate) fn new(worker: Worker, shutdown: CancellationToken) -> Self {
        let (beat, beats) = mpsc::unbounded_channel();
        Self {
            hello: hello(&worker),
            worker,
            outbox: Outbox::new(),
            timers: DelayQueue::new(),
            attempts: HashMap::new(),
            work: JoinSet::new(),
            workers: HashMap::new(),
            beats,
            beat,
            shutdown,
            stream: None,
            opening: None,
            connecting: None,
            tries: 0,
            backoff: RECONNECT_MOST,
            interval: HEARTBEAT_INTERVAL,
            watched: Instant::now(),
            pings: 0,
            is_draining: false,
            is_over: false,
        }
    }

    pub(crate) async fn run(mut self) -> Result<(), Error> {
        self.open();
        self.watch_later();
        while !self.is_over {
            tokio::select! {
                () = self.shutdown.cancelled(), if !self.is_draining => self.drain(),
                opened = opened(&mut self.opening) => self.opened(opened)?,
                turn = turn(&mut self.stream, !self.outbox.is_empty()) => match turn {
                    Ok(Turn::Heard(message)) => self.received(*message),
                    Ok(Turn::Room) => self.say(),
                    Err(error) => self.broken(error)?,
                },
                Some(beat) = self.beats.recv() => self.beaten(beat),
                Some(ended) = self.work.join_next_with_id() => self.joined(ended),
                Some(due) = self.timers.next() => self.due(due.into_inner())?,
            }
            let has_said = self.stream.is_none() || self.outbox.is_empty();
            self.is_over |= self.is_draining && self.attempts.is_empty() && has_said;
        }
        if let Some(stream) = self.stream {
            stream.say_goodbye().await;
        }
        Ok(())
    }

    fn due(&mut self, due: Due) -> Result<(), Error> {
        match due {
            Due::Connect => {
                self.connecting = None;
                self.open();
            }
            Due::Watch => return self.watch(),
            Due::Breathe(task) => self.breathe(&task),
            Due::Again(report) => self.again(*report),
            Due::Release => {
                self.release_all();
                self.timers.insert(Due::Leave, ANSWER_TIME);
            }
            Due::Leave => self.is_over = true,
        }
        Ok(())
    }

    /// Opens a stream. The one before, if it still stands, works on until the new one is welcome.
    fn open(&mut self) {
        if self.opening.is_some() {
            return;
        }
        let mut hello = self.hello.clone();
        if !hello.session_id.is_empty() {
            hello.held = self.attempts.values().map(|attempt| attempt.task.clone()).collect();
        }
        let opening = tokio::spawn(Stream::open(self.worker.client.clone(), hello));
        self.opening = Some(AbortOnDropHandle::new(opening));
    }

    fn opened(&mut self, opened: Opened) -> Result<(), Error> {
        self.opening = None;
        match opened {
            Ok((stream, message)) => {
                self.stream = Some(stream);
                self.tries = 0;
                self.stop_connecting();
                self.received(message);
                Ok(())
            }
            Err(error) => self.failed(error),
        }
    }

    fn welcomed(&mut self, welcome: Welcome) {
        tracing::info!(session = welcome.session_id, resumed = welcome.resumed, "connected");
        if welcome.resumed {
            self.drop_all_but(&welcome.held);
            self.outbox.resume();
        } else {
            self.forget();
        }
        self.hello.session_id = welcome.session_id;
        if let Some(ttl) = duration(welcome.session_ttl) {
            self.backoff = ttl / TRIES_A_SESSION;
        }
        self.interval = duration(welcome.heartbeat_interval).unwrap_or(HEARTBEAT_INTERVAL);
        if let Ok(items @ 1..) = usize::try_from(welcome.max_items) {
            self.outbox.max_items = items;
        }
        // A new stream drains only once it is told.
        self.outbox.drain = self.is_draining;
        self.worker.connected.send_replace(true);
    }

    /// Takes in a message: assigns first, since all else that it says may be about them.
    fn received(&mut self, message: ConnectResponse) {
        if let Some(welcome) = message.welcome {
            self.welcomed(welcome);
        }
        message.assigns.into_iter().for_each(|task| self.assigned(task));
        for task in message.cancels.into_iter().filter_map(|cancel| cancel.r#ref) {
            self.cancelled(&task);
        }
        for task in message.revokes.into_iter().filter_map(|revoke| revoke.r#ref) {
            self.drop_attempt(&task);
        }
        message.results.into_iter().for_each(|result| self.answered(result));
        for beat in message.heartbeats.into_iter().filter(|beat| beat.cancel_requested || beat.lost) {
            // A lost one reports all the same, so that its place is given back.
            self.cancelled(&beat.r#ref.unwrap_or_default());
        }
        if message.ping != 0 {
            self.outbox.pong = message.ping;
        }
        if let Some(rotate) = message.rotate {
            let within = duration(rotate.within).unwrap_or_default();
            self.connect_in(jitter(within));
        }
    }

    fn say(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.say(self.outbox.take());
        }
    }

    fn broken(&mut self, error: Error) -> Result<(), Error> {
        self.stream = None;
        self.failed(error)
    }

    /// A stream has ended, or could not be opened. Gives the error back when another attempt can't help.
    fn failed(&mut self, error: Error) -> Result<(), Error> {
        let mut delay = jitter(self.backoff.min(RECONNECT_FIRST * 2_u32.pow(self.tries.min(16))));
        if let Error::Refused(refusal) = &error {
            let is_final = matches!(
                refusal.code,
                Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
            );
            match refusal.reason.as_str() {
                "SESSION_EXPIRED" | "SESSION_NOT_FOUND" if !self.hello.session_id.is_empty() => {
                    tracing::warn!("the session is over: what it held is dropped");
                    self.stream = None;
                    self.forget();
                    self.open();
                    return Ok(());
                }
                "NAMESPACE_NOT_FOUND" => return Err(error),
                _ if is_final => return Err(error),
                _ => delay += refusal.retry_after.unwrap_or_default(),
            }
        }
        tracing::info!(%error, ?delay, "no stream");
        self.tries += 1;
        self.connect_in(delay);
        Ok(())
    }

    fn connect_in(&mut self, delay: Duration) {
        self.stop_connecting();
        self.connecting = Some(self.timers.insert(Due::Connect, delay));
    }

    fn stop_connecting(&mut self) {
        if let Some(key) = self.connecting.take() {
            self.timers.remove(&key);
        }
    }

    /// The session is over, and with it all that it held.
    fn forget(&mut self) {
        self.drop_all_but(&[]);
        self.outbox.clear();
        self.hello.session_id.clear();
        self.backoff = RECONNECT_MOST;
    }

    fn watch_later(&mut self) {
        self.timers.insert(Due::Watch, self.tick());
    }

    fn tick(&self) -> Duration {
        WATCH_INTERVAL.min(self.interval / 4)
    }

    fn watch(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let was_held_up = now - self.watched > self.tick() + HELD_UP;
        self.watched = now;
        self.watch_later();
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        if was_held_up {
            stream.heard_time = now;
        }
        let (silence, said_time) = (now - stream.heard_time, stream.said_time);
        if silence > SILENCE_BEFORE_DEATH {
            return self.broken(Error::unavailable(format!("nothing was heard for {silence:?}")));
        }
        if silence > SILENCE_BEFORE_PING || now - said_time + self.tick() >= self.interval {
            self.pings += 1;
            self.outbox.ping = self.pings;
        }
        Ok(())
    }

    fn drain(&mut self) {
        tracing::info!(held = self.attempts.len(), "leaving");
        self.is_draining = true;
        self.outbox.drain = true;
        self.timers.insert(Due::Release, self.worker.options.drain_time);
    }

    fn joined(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        // The last heartbeat goes before the end.
        while let Ok(beat) = self.beats.try_recv() {
            self.beaten(beat);
        }
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Ok(outcome)),
            Err(error) => (error.id(), Err(error)),
        };
        if let Some(task) = self.workers.remove(&id) {
            self.ended(&task, outcome);
        }
    }
}

/// Waits for a stream that is being opened: for ever if none is.
async fn opened(opening: &mut Option<AbortOnDropHandle<Opened>>) -> Opened {
    match opening {
        Some(opening) => opening
            .await
            .unwrap_or_else(|error| Err(Error::unavailable(format!("the stream's opening failed: {error}")))),
        None => std::future::pending().await,
    }
}

fn hello(worker: &Worker) -> Hello {
    let capacity = Capacity {
        kind: TaskKind::Activity.into(),
        max_outstanding: worker.options.max_activities,
        ..Capacity::default()
    };
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

/// None also for what is 0 or less, which stands for nothing said.
pub(crate) fn duration(given: Option<prost_types::Duration>) -> Option<Duration> {
    given.and_then(|given| given.try_into().ok()).filter(|given: &Duration| !given.is_zero())
}
