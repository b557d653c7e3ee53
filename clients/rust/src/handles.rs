//! Handles of runs and jobs: to wait for their ends, and to stop them.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::{
    client::{Client, request_id},
    error::{Ended, Error},
    payload::from_payload,
    pb::{self, CancelJobRequest, CancelRunRequest, JobState, RunPhase, WaitJobRequest, WaitRunRequest},
};

/// Well within the time of a call's attempt.
const WAIT_TIME: Duration = Duration::from_secs(15);

/// A handle of a run.
#[derive(Clone, Debug)]
pub struct Run {
    pub(crate) client: Client,
    pub(crate) id: String,
}

impl Run {
    /// The run's id, a UUID.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the end of the run, and of those that continue it, however long that takes, and reads its result.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if it did not end well; [`Error::Refused`]; [`Error::Payload`].
    pub async fn result<O: DeserializeOwned>(&self) -> Result<O, Error> {
        loop {
            let request = WaitRunRequest {
                namespace: self.client.namespace().to_owned(),
                run_id: self.id.clone(),
                wait: WAIT_TIME.try_into().ok(),
                ..WaitRunRequest::default()
            };
            let call = |request| {
                let mut runs = self.client.runs();
                async move { runs.wait_run(request).await }
            };
            let answer = self.client.call(request, call).await?;
            let Some(run) = answer.run.filter(|_| answer.ended) else {
                continue;
            };
            if run.phase() == RunPhase::Completed {
                return Ok(from_payload(run.result.as_ref())?);
            }
            return Err(ended(run.phase().as_str_name(), "RUN_PHASE_", run.run_id, run.failure));
        }
    }

    /// Asks the run to cancel. False if it had ended, or was asked before.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub async fn cancel(&self, reason: &str) -> Result<bool, Error> {
        let request = CancelRunRequest {
            namespace: self.client.namespace().to_owned(),
            run_id: self.id.clone(),
            reason: reason.into(),
            request_id: request_id(String::new()),
            ..CancelRunRequest::default()
        };
        let call = |request| {
            let mut runs = self.client.runs();
            async move { runs.cancel_run(request).await }
        };
        Ok(self.client.call(request, call).await?.accepted)
    }
}

/// A handle of a job.
#[derive(Clone, Debug)]
pub struct Job {
    pub(crate) client: Client,
    pub(crate) id: String,
}

impl Job {
    /// The job's id, a UUID.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the end of the job, however long that takes, and reads its result.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if it did not end well; [`Error::Refused`]; [`Error::Payload`].
    pub async fn result<O: DeserializeOwned>(&self) -> Result<O, Error> {
        loop {
            let request = WaitJobRequest {
                namespace: self.client.namespace().to_owned(),
                job_id: self.id.clone(),
                wait: WAIT_TIME.try_into().ok(),
            };
            let call = |request| {
                let mut jobs = self.client.jobs();
                async move { jobs.wait_job(request).await }
            };
            let answer = self.client.call(request, call).await?;
            let Some(job) = answer.job.filter(|_| answer.ended) else {
                continue;
            };
            if job.state() == JobState::Completed {
                return Ok(from_payload(job.result.as_ref())?);
            }
            return Err(ended(job.state().as_str_name(), "JOB_STATE_", job.job_id, job.failure));
        }
    }

    /// Asks the job to stop. False if it had ended, or was asked before.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub async fn cancel(&self, reason: &str) -> Result<bool, Error> {
        let request = CancelJobRequest {
            namespace: self.client.namespace().to_owned(),
            job_id: self.id.clone(),
            reason: reason.into(),
            request_id: request_id(String::new()),
        };
        let call = |request| {
            let mut jobs = self.client.jobs();
            async move { jobs.cancel_job(request).await }
        };
        Ok(self.client.call(request, call).await?.accepted)
    }
}

fn ended(name: &str, prefix: &str, id: String, failure: Option<pb::Failure>) -> Error {
    let how = name.trim_start_matches(prefix).to_owned();
    Error::Ended(Box::new(Ended { id, how, failure }))
}
