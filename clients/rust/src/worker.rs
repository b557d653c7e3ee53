//! A worker: the activities that it knows, and what their functions get to see.

use std::{collections::HashMap, pin::Pin, process, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    signal,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Client, random},
    error::{ActivityError, Error},
    payload::{PayloadError, from_payload, to_payload},
    pb::{self, Payload, TaskRef},
    session::Session,
};

/// What a worker takes on.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The queues that it takes tasks from. Default: `default`.
    pub task_queues: Vec<String>,
    /// How many activities and jobs it performs at once, 1 to 10,000. Default: 100.
    pub max_activities: i32,
    /// Its id, stable over reconnects. Default: host, process and a random part.
    pub worker_id: String,
    /// What it gives its work to end when it leaves. Then it gives back what is left. Default: 30 s.
    pub drain_time: Duration,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            task_queues: vec!["default".into()],
            max_activities: 100,
            worker_id: format!("{}/{:016x}", identity(), random()),
            drain_time: Duration::from_secs(30),
        }
    }
}

pub(crate) fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.is_empty() { "unknown" } else { host.trim() };
    format!("{host}/{}", process::id())
}

pub(crate) type Outcome = Result<Payload, ActivityError>;
pub(crate) type Performance = Pin<Box<dyn Future<Output = Outcome> + Send>>;
pub(crate) type Activity = Box<dyn Fn(ActivityContext, Payload) -> Performance + Send + Sync>;

/// Performs activities and jobs. It takes no runs.
pub struct Worker {
    pub(crate) client: Client,
    pub(crate) options: WorkerOptions,
    pub(crate) activities: HashMap<String, Activity>,
    pub(crate) connected: watch::Sender<bool>,
}

impl Worker {
    /// Prepares a worker; [`Worker::run`] connects it.
    #[must_use]
    pub fn new(client: Client, options: WorkerOptions) -> Self {
        Self { client, options, activities: HashMap::new(), connected: watch::Sender::new(false) }
    }

    /// Lets it perform activities and jobs of a type. An input that does not fit fails the attempt with the kind
    /// `InvalidInput`, for good; a panic fails it with the kind `Panic`. Functions that block should do so in
    /// `tokio::task::spawn_blocking`, for the worker's own tasks to go on.
    #[must_use]
    pub fn activity<I, O, F>(
        mut self,
        name: impl Into<String>,
        function: impl Fn(ActivityContext, I) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        I: DeserializeOwned + Send,
        O: Serialize,
        F: Future<Output = Result<O, ActivityError>> + Send + 'static,
    {
        let activity = move |context, input: Payload| -> Performance {
            let function = function.clone();
            Box::pin(async move {
                let input = from_payload(Some(&input))
                    .map_err(|error| ActivityError::new("InvalidInput", error.to_string()).non_retryable())?;
                Ok(to_payload(&function(context, input).await?)?)
            })
        };
        self.activities.insert(name.into(), Box::new(activity));
        self
    }

    /// Waits for the service's first welcome. To be called before [`Worker::run`], and awaited beside it. It never ends if
    /// the worker ends first.
    pub fn connected(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut connected = self.connected.subscribe();
        async move {
            if connected.wait_for(|is| *is).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Works until `shutdown` is cancelled, and then ends what is in work first. It connects again whenever its stream
    /// breaks.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] where the service refuses the worker for good: a wrong key, an unknown namespace.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        Session::new(self, shutdown).run().await
    }
}

/// Is cancelled at SIGTERM (on Unix) or Ctrl-C: the usual `shutdown` of a worker. To be called within a Tokio runtime.
///
/// # Errors
///
/// Those of the system, when it takes no handler.
pub fn shutdown_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let told = token.clone();
    #[cfg(unix)]
    let mut terminated = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminated.recv() => {}
            _ = signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        let _ = signal::ctrl_c().await;
        told.cancel();
    });
    Ok(token)
}

/// Which attempt of what an activity's function is at.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ActivityInfo {
    /// The namespace.
    pub namespace: String,
    /// The activity's type.
    pub activity: String,
    /// The queue that it came from.
    pub task_queue: String,
    /// The run's id. Empty for a job.
    pub run_id: String,
    /// The caller's name for the run. Empty for a job.
    pub workflow_id: String,
    /// The step's name. Empty for a job.
    pub step_name: String,
    /// The job's id. Empty for an activity of a run.
    pub job_id: String,
    /// Counts from 1.
    pub attempt: i32,
    /// The longest time between heartbeats. None if none are needed.
    pub heartbeat_timeout: Option<Duration>,
    /// W3C trace context to go on with.
    pub traceparent: String,
}

impl From<&pb::Task> for ActivityInfo {
    fn from(task: &pb::Task) -> Self {
        Self {
            namespace: task.namespace.clone(),
            activity: task.r#type.clone(),
            task_queue: task.task_queue.clone(),
            run_id: task.run_id.clone(),
            workflow_id: task.workflow_id.clone(),
            step_name: task.step_name.clone(),
            job_id: task.job_id.clone(),
            attempt: task.attempt,
            heartbeat_timeout: task.heartbeat_timeout.and_then(|time| time.try_into().ok()),
            traceparent: task.traceparent.clone(),
        }
    }
}

/// A sign of life of an attempt, on its way to the session.
#[derive(Debug)]
pub(crate) struct Beat {
    pub(crate) task: TaskRef,
    pub(crate) details: Option<Payload>,
}

/// What an activity's function knows of its attempt, and tells of it. Clones are of the same attempt.
#[derive(Clone, Debug)]
pub struct ActivityContext {
    pub(crate) info: Arc<ActivityInfo>,
    pub(crate) task: TaskRef,
    pub(crate) details: Option<Payload>,
    pub(crate) stop: CancellationToken,
    pub(crate) beats: mpsc::UnboundedSender<Beat>,
}

impl ActivityContext {
    /// Which attempt of what it is.
    #[must_use]
    pub fn info(&self) -> &ActivityInfo {
        &self.info
    }

    /// Says that the activity is alive and how far it is; the next attempt gets the details. It does not wait, and may be
    /// called as often as one likes: what comes faster than is needed goes out later.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Write`].
    pub fn heartbeat<T: Serialize + ?Sized>(&self, details: &T) -> Result<(), PayloadError> {
        self.beat(Some(to_payload(details)?));
        Ok(())
    }

    /// Says that the activity is alive. The details stay as they are.
    pub fn alive(&self) {
        self.beat(None);
    }

    fn beat(&self, details: Option<Payload>) {
        // Nobody listens once the worker has left.
        let _ = self.beats.send(Beat { task: self.task.clone(), details });
    }

    /// Reads what the attempt before told last. None if it told nothing.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Read`], [`PayloadError::Bytes`].
    pub fn heartbeat_details<T: DeserializeOwned>(&self) -> Result<Option<T>, PayloadError> {
        self.details.as_ref().map(|details| from_payload(Some(details))).transpose()
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
