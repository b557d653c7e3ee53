//! A worker: what it takes on, and the activities that it knows.

use std::{collections::HashMap, pin::Pin, process, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::signal;
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::ActivityContext,
    client::{Client, random},
    error::{ActivityError, Error},
    payload::{PayloadError, from_payload, to_payload},
    pb::Payload,
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
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".into());
    format!("{}/{}", host.trim(), process::id())
}

type Performance = Pin<Box<dyn Future<Output = Result<Payload, ActivityError>> + Send>>;
pub(crate) type Activity = Box<dyn Fn(ActivityContext, Payload) -> Performance + Send + Sync>;

/// Performs activities and jobs. It takes no runs.
pub struct Worker {
    pub(crate) client: Client,
    pub(crate) options: WorkerOptions,
    pub(crate) activities: HashMap<String, Activity>,
    /// Is cancelled at the first welcome.
    pub(crate) connected: CancellationToken,
}

impl Worker {
    /// Prepares a worker; [`Worker::run`] connects it.
    #[must_use]
    pub fn new(client: Client, options: WorkerOptions) -> Self {
        Self { client, options, activities: HashMap::new(), connected: CancellationToken::new() }
    }

    /// Lets it perform activities and jobs of a type. An input that does not fit fails the attempt with the kind
    /// `InvalidInput`, a result that can't be written with `PayloadError`, both for good; a panic fails it with the kind
    /// `Panic`. Functions that block should do so in `tokio::task::spawn_blocking`, for the worker's own tasks to go on.
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
                let misfit =
                    |error: PayloadError| ActivityError::new("InvalidInput", error.to_string()).non_retryable();
                let result = function(context, from_payload(Some(&input)).map_err(misfit)?).await?;
                to_payload(&result).map_err(|error| ActivityError::from(error).non_retryable())
            })
        };
        self.activities.insert(name.into(), Box::new(activity));
        self
    }

    /// Waits for the service's first welcome. To be called before [`Worker::run`], and awaited beside it. It never ends if
    /// the worker ends first.
    pub fn connected(&self) -> impl Future<Output = ()> + Send + use<> {
        self.connected.clone().cancelled_owned()
    }

    /// Works until `shutdown` is cancelled, and then ends what is in work first. It connects again whenever its stream
    /// breaks.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] where the service refuses the worker for good: a wrong key, an unknown namespace.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        Session::new(self).run(shutdown).await
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
    #[cfg(windows)]
    let mut terminated = signal::windows::ctrl_close()?;
    tokio::spawn(async move {
        tokio::select! { _ = terminated.recv() => {}, _ = signal::ctrl_c() => {} }
        told.cancel();
    });
    Ok(token)
}
