//! How a session comes by its streams: the first, one after each that broke, and another when the service asks for it.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use crate::{
    client::jitter,
    error::Error,
    pb::ConnectResponse,
    session::{Due, Session},
    stream::Stream,
};

const RECONNECT_FIRST: Duration = Duration::from_millis(200);

pub(crate) type Opened = Result<(Stream, ConnectResponse), Error>;

impl Session {
    /// Opens a stream. The one before, if it still stands, works on until the new one is welcome.
    pub(crate) fn open(&mut self) {
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

    pub(crate) fn opened(&mut self, opened: Opened) -> Result<(), Error> {
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

    pub(crate) fn broken(&mut self, error: Error) -> Result<(), Error> {
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

    pub(crate) fn connect_in(&mut self, delay: Duration) {
        self.stop_connecting();
        self.connecting = Some(self.later(Due::Connect, delay));
    }

    fn stop_connecting(&mut self) {
        if let Some(key) = self.connecting.take() {
            self.timers.remove(&key);
        }
    }
}

/// Waits for a stream that is being opened: for ever if none is.
pub(crate) async fn opened(opening: &mut Option<AbortOnDropHandle<Opened>>) -> Opened {
    match opening {
        Some(opening) => opening
            .await
            .unwrap_or_else(|error| Err(Error::unavailable(format!("the stream's opening failed: {error}")))),
        None => std::future::pending().await,
    }
}
