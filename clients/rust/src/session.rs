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

use crate::{
    attempts::Attempt,
    client::jitter,
    connecting::{Opened, opened},
    error::Error,
    outbox::Outbox,
    pb::{Capacity, CapacityUpdate, ConnectResponse, Hello, Report, TaskKind, TaskRef, Welcome},
    stream::{Stream, Turn, turn},
    worker::{Beat, Outcome, Worker, identity},
};

const RECONNECT_MOST: Duration = Duration::from_secs(30);
/// A session that is still held is sought several times before it ends.
const TRIES_A_SESSION: u32 = 4;
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const SILENCE_BEFORE_PING: Duration = Duration::from_secs(20);
const SILENCE_BEFORE_DEATH: Duration = Duration::from_secs(30);
/// Who was held up for so long himself has yet to read what came meanwhile.
const HELD_UP: Duration = Duration::from_secs(5);
/// A queue of delays takes none that is longer than some two years.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
const ANSWER_TIME: Duration = Duration::from_secs(5);

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
    pub(crate) hello: Hello,
    shutdown: CancellationToken,
    pub(crate) stream: Option<Stream>,
    pub(crate) opening: Option<AbortOnDropHandle<Opened>>,
    pub(crate) connecting: Option<delay_queue::Key>,
    pub(crate) tries: u32,
    pub(crate) backoff: Duration,
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

    /// Has something done after a while.
    pub(crate) fn later(&mut self, due: Due, delay: Duration) -> delay_queue::Key {
        self.timers.insert(due, delay.min(LONGEST))
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
                self.later(Due::Leave, ANSWER_TIME);
            }
            Due::Leave => self.is_over = true,
        }
        Ok(())
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
    pub(crate) fn received(&mut self, message: ConnectResponse) {
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

    /// The session is over, and with it all that it held.
    pub(crate) fn forget(&mut self) {
        self.drop_all_but(&[]);
        self.outbox.clear();
        self.hello.session_id.clear();
        self.backoff = RECONNECT_MOST;
    }

    fn watch_later(&mut self) {
        self.later(Due::Watch, self.tick());
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
        self.later(Due::Release, self.worker.options.drain_time);
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
