//! What calls, runs, jobs and activities fail with.

use std::{collections::HashMap, error::Error as StdError, time::Duration};

use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt};

use crate::{
    payload::{PayloadError, to_payload},
    pb,
};

/// What the service keeps of a message.
const MESSAGE_CHARACTERS: usize = 16_384;

/// What a call of this crate fails with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The service refused, or was not to be reached.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The run or the job that was waited for did not end well.
    #[error(transparent)]
    Ended(Box<Ended>),
    /// A value was not to be written or read.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The API key has a character that no header may have.
    #[error("the API key can't be sent in a header")]
    ApiKey,
}

impl Error {
    /// The reason of a refusal, such as `RUN_NOT_FOUND`: what programs go by. Empty if there is none.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.reason,
            _ => "",
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status.into()))
    }
}

/// A refusal of the service.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", if reason.is_empty() { format!("{code:?}") } else { reason.clone() })]
#[non_exhaustive]
pub struct Refusal {
    /// The canonical code.
    pub code: Code,
    /// One of `proto/stepwell/v1/error_reason.proto`, such as `RUN_NOT_FOUND`. Empty if none was given.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The facts of the reason, such as the run's id.
    pub metadata: HashMap<String, String>,
    /// What is wrong with which field of the request.
    pub fields: HashMap<String, String>,
    /// The service's advice when to try again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Tells whether the same call may succeed a little later. Who wants a call cancelled drops its future, so that a
    /// status `CANCELLED` is always somebody else's doing, such as a proxy's.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self.code {
            Code::Unavailable | Code::Aborted | Code::DeadlineExceeded | Code::Cancelled => true,
            _ => self.retry_after.is_some(),
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        // What has a source was not said by the service: the connection broke.
        let is_broken = status.source().is_some();
        let code = match status.code() {
            Code::Unknown | Code::Internal if is_broken => Code::Unavailable,
            code => code,
        };
        let details = status.get_error_details();
        let info = details.error_info().cloned().unwrap_or_else(|| ErrorInfo::new("", "", HashMap::new()));
        let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        Self {
            code,
            reason: info.reason,
            message: with_causes(status.message().to_owned(), &status),
            metadata: info.metadata,
            fields: violations.into_iter().map(|violation| (violation.field, violation.description)).collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

/// A run or a job that did not end well.
#[derive(Debug, thiserror::Error)]
#[error("{id} ended {how}{}", said(failure.as_ref()))]
#[non_exhaustive]
pub struct Ended {
    /// The run's id, or the job's.
    pub id: String,
    /// `FAILED`, `CANCELLED`, `TERMINATED`, `TIMED_OUT` or `SKIPPED`.
    pub how: String,
    /// Why, as it is recorded; none if nothing is.
    pub failure: Option<pb::Failure>,
}

fn said(failure: Option<&pb::Failure>) -> String {
    failure.map(|failure| format!(": {}: {}", failure.r#type, failure.message)).unwrap_or_default()
}

/// How an attempt at an activity did not succeed. Every error becomes one by `?`: its kind is the name of its type.
#[derive(Debug)]
pub enum ActivityError {
    /// It stopped since it was asked to: its step or job ends cancelled.
    Cancelled,
    /// It failed. The service decides whether there is another attempt.
    Failed(Box<pb::Failure>),
}

impl ActivityError {
    /// A failure of a kind, for programs and for retry policies, with a message for people.
    #[must_use]
    pub fn new(kind: impl AsRef<str>, message: impl AsRef<str>) -> Self {
        Self::Failed(Box::new(failure(kind.as_ref(), message.as_ref())))
    }

    /// Says that another attempt can't help.
    #[must_use]
    pub fn non_retryable(self) -> Self {
        self.with(|failure| failure.non_retryable = true)
    }

    /// Chooses the delay before the next attempt, in place of the policy's.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        self.with(|failure| failure.next_retry_delay = delay.try_into().ok())
    }

    /// Has a value kept with the failure.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Write`].
    pub fn details<T: Serialize + ?Sized>(self, details: &T) -> Result<Self, PayloadError> {
        let details = to_payload(details)?;
        Ok(self.with(|failure| failure.details = Some(details)))
    }

    fn with(mut self, change: impl FnOnce(&mut pb::Failure)) -> Self {
        if let Self::Failed(failure) = &mut self {
            change(failure);
        }
        self
    }
}

impl<E: StdError + 'static> From<E> for ActivityError {
    fn from(error: E) -> Self {
        let path = std::any::type_name::<E>().split('<').next().unwrap_or_default();
        let kind = path.rsplit("::").next().unwrap_or_default();
        Self::new(kind, with_causes(error.to_string(), &error))
    }
}

/// Says after an error's message what came to that.
fn with_causes(mut message: String, error: &dyn StdError) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    message
}

pub(crate) fn failure(kind: &str, message: &str) -> pb::Failure {
    let message = message.chars().take(MESSAGE_CHARACTERS).collect();
    pb::Failure { r#type: kind.into(), message, ..pb::Failure::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_tell_their_kind() {
        let ActivityError::Failed(failure) = "x".parse::<i32>().unwrap_err().into() else {
            panic!("it has failed");
        };
        assert_eq!(failure.r#type, "ParseIntError");
        assert_eq!(failure.message, "invalid digit found in string");
    }

    #[test]
    fn failures_are_small() {
        assert_eq!(failure("Large", &"ß".repeat(3 << 20)).message.len(), 2 * MESSAGE_CHARACTERS);
    }

    #[test]
    fn broken_connections_pass() {
        let mut broken = Status::unknown("transport error");
        broken.set_source(std::sync::Arc::new(std::io::Error::other("reset")));
        assert!(Refusal::from(broken.clone()).is_passing());
        assert_eq!(Refusal::from(broken).message, "transport error: reset");
        assert!(!Refusal::from(Status::unknown("said so")).is_passing());
        assert!(Refusal::from(Status::cancelled("by a proxy")).is_passing());
    }
}
