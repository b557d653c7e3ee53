//! One stream of a session, over a connection of its own.

use std::time::Duration;

use futures_util::{StreamExt, TryFutureExt, stream::BoxStream};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{
    client::Client,
    pb::{ConnectRequest, ConnectResponse, Hello},
};

const WELCOME_TIME: Duration = Duration::from_secs(10);
const LAST_WORDS_TIME: Duration = Duration::from_secs(2);

/// To drop it ends it; what it has not said is lost.
pub(crate) struct Stream {
    pub(crate) said: mpsc::Sender<ConnectRequest>,
    pub(crate) heard: BoxStream<'static, Result<ConnectResponse, Status>>,
    pub(crate) is_welcome: bool,
    /// For how long it may go on without a word.
    pub(crate) patience: Duration,
    pub(crate) ping_time: Instant,
    /// When to go over to another.
    pub(crate) rotate_time: Option<Instant>,
}

impl Stream {
    /// Connects after a while, and says hello. All that comes of it is heard: also that nobody is there.
    pub(crate) fn open(client: Client, hello: Hello, delay: Duration) -> Self {
        // One message is under way at a time: what gathers meanwhile is the next.
        let (said, words) = mpsc::channel(1);
        let message = ConnectRequest { hello: Some(hello), ..ConnectRequest::default() };
        said.try_send(message).expect("a new channel has room");
        let opening = async move {
            sleep(delay).await;
            let mut worker = client.connect().await?;
            Ok(worker.connect(ReceiverStream::new(words)).await?.into_inner())
        };
        let heard = opening.try_flatten_stream().boxed();
        let (patience, ping_time) = (delay + WELCOME_TIME, Instant::now());
        Self { said, heard, is_welcome: false, patience, ping_time, rotate_time: None }
    }

    /// Half-closes, and waits until all that was said has been read.
    pub(crate) async fn close(mut self) {
        drop(self.said);
        let ended = async { while let Some(Ok(_)) = self.heard.next().await {} };
        let _ = timeout(LAST_WORDS_TIME, ended).await;
    }
}
