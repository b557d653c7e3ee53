//! One stream of a session, over a connection of its own.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    client::Client,
    error::Error,
    pb::{ConnectRequest, ConnectResponse, Hello},
};

const WELCOME_TIME: Duration = Duration::from_secs(10);
const LAST_WORDS_TIME: Duration = Duration::from_secs(2);

/// A stream that was greeted. To drop it ends it; what it has not said is lost.
#[derive(Debug)]
pub(crate) struct Stream {
    said: mpsc::Sender<ConnectRequest>,
    heard: Streaming<ConnectResponse>,
    pub(crate) said_time: Instant,
    pub(crate) heard_time: Instant,
}

/// Whose turn it is.
pub(crate) enum Turn {
    /// The service has said something.
    Heard(Box<ConnectResponse>),
    /// The message before is on its way: there is room for the next.
    Room,
}

impl Stream {
    /// Connects and says hello. Gives the message with the welcome.
    pub(crate) async fn open(client: Client, hello: Hello) -> Result<(Self, ConnectResponse), Error> {
        let greeted = timeout(WELCOME_TIME, Self::greet(client, hello)).await;
        greeted.unwrap_or_else(|_| Err(Error::unavailable("nobody said welcome in time")))
    }

    async fn greet(client: Client, hello: Hello) -> Result<(Self, ConnectResponse), Error> {
        // One message is under way at a time: what gathers meanwhile is the next.
        let (said, words) = mpsc::channel(1);
        let message = ConnectRequest { hello: Some(hello), ..ConnectRequest::default() };
        said.try_send(message).expect("a new channel has room");
        let mut worker = client.connect().await?;
        let mut heard = worker.connect(ReceiverStream::new(words)).await?.into_inner();
        let welcome = heard.message().await?.filter(|message| message.welcome.is_some());
        let welcome = welcome.ok_or_else(|| Error::unavailable("it did not say welcome"))?;
        let now = Instant::now();
        Ok((Self { said, heard, said_time: now, heard_time: now }, welcome))
    }

    async fn turn(&mut self, has_words: bool) -> Result<Turn, Error> {
        tokio::select! {
            message = self.heard.message() => {
                self.heard_time = Instant::now();
                // There is nothing more to be heard: the quiet end of a stream is one as well.
                let message = message?.ok_or_else(|| Error::unavailable("the service ended the stream"))?;
                Ok(Turn::Heard(Box::new(message)))
            }
            // If the stream has ended, there is no room, and hearing tells why.
            Ok(_) = self.said.reserve(), if has_words => Ok(Turn::Room),
        }
    }

    /// To be called when it is the worker's turn.
    pub(crate) fn say(&mut self, message: ConnectRequest) {
        self.said_time = Instant::now();
        // What a broken stream does not take is said again after the resume.
        let _ = self.said.try_send(message);
    }

    /// Half-closes, so that the service may end the session at once.
    pub(crate) async fn say_goodbye(self) {
        let Self { said, mut heard, .. } = self;
        drop(said);
        let ended = async { while let Ok(Some(_)) = heard.message().await {} };
        let _ = timeout(LAST_WORDS_TIME, ended).await;
    }
}

/// Waits for a message, or for room if there is something to say. Of a stream that is absent: for ever.
pub(crate) async fn turn(stream: &mut Option<Stream>, has_words: bool) -> Result<Turn, Error> {
    match stream {
        Some(stream) => stream.turn(has_words).await,
        None => std::future::pending().await,
    }
}
