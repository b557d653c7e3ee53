//! Calls: starts of runs and jobs, and waits for their ends.

use std::{env, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Request, Response, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{
    error::{Error, Refusal},
    handles::{Job, Run},
    payload::to_payload,
    pb::{
        StartJobRequest, StartRunRequest, job_service_client::JobServiceClient, run_service_client::RunServiceClient,
        worker_service_client::WorkerServiceClient,
    },
};

/// An assignment may carry an input of 2 MiB, and other things beside it.
const MESSAGE_BYTES: usize = 16 << 20;
const CALL_TIME: Duration = Duration::from_secs(60);
const ATTEMPT_TIME: Duration = Duration::from_secs(20);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// Gives each call the caller's key.
#[derive(Clone, Debug)]
pub struct Authorize(Option<AsciiMetadataValue>);

impl Interceptor for Authorize {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

/// A connection with the caller's key: for the stubs in [`crate::pb`] that [`Client`] has no method for.
pub type Connection = InterceptedService<Channel, Authorize>;

/// Speaks with a service. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    authorize: Authorize,
    channel: Channel,
    namespace: String,
    call_time: Duration,
}

impl Client {
    /// A client of the service at an endpoint, such as `Endpoint::from_static("http://127.0.0.1:7233")`. Timeouts, keepalive
    /// and TLS (feature `tls`) are the endpoint's. It connects when it is first needed. The key is that of the environment's
    /// `STEPWELL_API_KEY`, if any; the namespace is `main`.
    ///
    /// # Errors
    ///
    /// [`Error::ApiKey`].
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        let key = env::var("STEPWELL_API_KEY").ok().filter(|key| !key.is_empty());
        let authorize = Authorize(key.as_deref().map(bearer).transpose()?);
        let channel = endpoint.connect_lazy();
        Ok(Self { endpoint, authorize, channel, namespace: "main".into(), call_time: CALL_TIME })
    }

    /// Names the namespace in which all happens.
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Gives the caller's key.
    ///
    /// # Errors
    ///
    /// [`Error::ApiKey`].
    pub fn with_api_key(mut self, key: &str) -> Result<Self, Error> {
        self.authorize = Authorize(Some(bearer(key)?));
        Ok(self)
    }

    /// Bounds a call with all its repeats. Default: 60 s.
    #[must_use]
    pub fn with_call_time(mut self, time: Duration) -> Self {
        self.call_time = time;
        self
    }

    /// The namespace in which all happens.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The connection, for further stubs: `ScheduleServiceClient::new(client.connection())`.
    #[must_use]
    pub fn connection(&self) -> Connection {
        InterceptedService::new(self.channel.clone(), self.authorize.clone())
    }

    /// The generated stub for runs.
    #[must_use]
    pub fn runs(&self) -> RunServiceClient<Connection> {
        RunServiceClient::new(self.connection()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// The generated stub for jobs.
    #[must_use]
    pub fn jobs(&self) -> JobServiceClient<Connection> {
        JobServiceClient::new(self.connection()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// A stub for a worker's stream, over a connection of its own: a load balancer may lead each elsewhere.
    pub(crate) async fn connect(&self) -> Result<WorkerServiceClient<Connection>, Status> {
        let channel = self.endpoint.connect().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let connection = InterceptedService::new(channel, self.authorize.clone());
        Ok(WorkerServiceClient::new(connection).max_decoding_message_size(MESSAGE_BYTES))
    }

    /// Calls a method, and again what fails in passing, with random delays, until the call's time is over. The request must
    /// be safe to repeat: by its `request_id`, or since it changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub async fn call<Q, A, F>(&self, request: Q, method: impl Fn(Request<Q>) -> F) -> Result<A, Error>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let end = Instant::now() + self.call_time;
        for attempt in 0.. {
            let bound = end.min(Instant::now() + ATTEMPT_TIME);
            let status = match timeout_at(bound, method(Request::new(request.clone()))).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("the attempt's time was over"),
            };
            let refusal = Refusal::from(status);
            let most = BACKOFF_MOST.min(BACKOFF_FIRST * 2_u32.pow(attempt.min(16)));
            let delay = jitter(most) + refusal.retry_after.unwrap_or_default();
            if !refusal.is_passing() || Instant::now() + delay > end {
                return Err(Error::Refused(Box::new(refusal)));
            }
            tracing::debug!(%refusal, ?delay, "the call is repeated");
            sleep(delay).await;
        }
        unreachable!("attempts have no end");
    }

    /// Starts a run of a workflow. It is recorded when this returns. `options` says the rest, such as its `task_queue`;
    /// without a `request_id` it gets one of this call's own, so that a repeat after a lost answer starts nothing twice.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], such as with the reason `WORKFLOW_ID_IN_USE`; [`Error::Payload`].
    pub async fn start_run<I: Serialize + ?Sized>(
        &self,
        workflow: &str,
        input: &I,
        options: StartRunRequest,
    ) -> Result<Run, Error> {
        let request = StartRunRequest {
            namespace: self.namespace.clone(),
            r#type: workflow.into(),
            input: Some(to_payload(input)?),
            request_id: request_id(options.request_id),
            ..options
        };
        let call = |request| {
            let mut runs = self.runs();
            async move { runs.start_run(request).await }
        };
        let started = self.call(request, call).await?;
        Ok(self.run(started.run_id))
    }

    /// A handle of a run by its id. Nothing is asked of the service.
    #[must_use]
    pub fn run(&self, id: impl Into<String>) -> Run {
        Run { client: self.clone(), id: id.into() }
    }

    /// Has an activity performed, without a run. It is recorded when this returns. `options` says the rest, as of
    /// [`Client::start_run`].
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], such as with the reason `UNIQUE_KEY_IN_USE`; [`Error::Payload`].
    pub async fn start_job<I: Serialize + ?Sized>(
        &self,
        activity: &str,
        input: &I,
        options: StartJobRequest,
    ) -> Result<Job, Error> {
        let request = StartJobRequest {
            namespace: self.namespace.clone(),
            r#type: activity.into(),
            input: Some(to_payload(input)?),
            request_id: request_id(options.request_id),
            ..options
        };
        let call = |request| {
            let mut jobs = self.jobs();
            async move { jobs.start_job(request).await }
        };
        let started = self.call(request, call).await?;
        Ok(self.job(started.job_id))
    }

    /// A handle of a job by its id. Nothing is asked of the service.
    #[must_use]
    pub fn job(&self, id: impl Into<String>) -> Job {
        Job { client: self.clone(), id: id.into() }
    }
}

fn bearer(key: &str) -> Result<AsciiMetadataValue, Error> {
    let mut value: AsciiMetadataValue = format!("Bearer {key}").parse().map_err(|_| Error::ApiKey)?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn request_id(given: String) -> String {
    if given.is_empty() { format!("{:016x}{:016x}", random(), random()) } else { given }
}

/// A random time, so that those who were told the same at once do not all come back at once.
pub(crate) fn jitter(most: Duration) -> Duration {
    most.mul_f64(random() as f64 / u64::MAX as f64)
}

pub(crate) fn random() -> u64 {
    getrandom::u64().expect("the system has random numbers")
}
