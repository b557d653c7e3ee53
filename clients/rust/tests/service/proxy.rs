//! A way to the service that can be cut, and that can lose what is said.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What is let through; the rest is lost, and nobody is told.
#[derive(Clone, Copy, PartialEq)]
pub enum Flow {
    All,
    /// What the service is told, and none of its answers.
    There,
    Nothing,
}

struct State {
    flow: watch::Sender<Flow>,
    /// Connections of a generation that is over are cut.
    generation: watch::Sender<usize>,
    accepted: watch::Sender<usize>,
    /// How many bytes did not come to the service.
    lost: watch::Sender<usize>,
}

pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            flow: watch::Sender::new(Flow::All),
            generation: watch::Sender::new(0),
            accepted: watch::Sender::new(0),
            lost: watch::Sender::new(0),
        });
        let shared = state.clone();
        let serving = tokio::spawn(async move {
            loop {
                let near = listener.accept().await.unwrap().0;
                let cut = shared.generation.subscribe();
                shared.accepted.send_modify(|accepted| *accepted += 1);
                let far = TcpStream::connect(service).await.unwrap();
                tokio::spawn(carry(near, far, shared.clone(), cut));
            }
        });
        Self { address, state, serving }
    }

    /// Loses what is said from now on, on connections that are open and on others.
    pub fn let_through(&self, flow: Flow) {
        self.state.flow.send_replace(flow);
    }

    /// Ends all connections that are open; later ones are let through.
    pub fn cut(&self) {
        self.state.generation.send_modify(|generation| *generation += 1);
        self.let_through(Flow::All);
    }

    /// Waits until so many bytes were lost on their way to the service.
    pub async fn loses(&self, bytes: usize) {
        self.state.lost.subscribe().wait_for(|lost| *lost >= bytes).await.unwrap();
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> usize {
        *self.state.accepted.borrow()
    }

    /// Waits until there have been more connections than those.
    pub async fn another(&self, than: usize) {
        self.state.accepted.subscribe().wait_for(|accepted| *accepted > than).await.unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
        self.cut();
    }
}

async fn carry(near: TcpStream, far: TcpStream, state: Arc<State>, mut cut: watch::Receiver<usize>) {
    let (near, far) = (near.into_split(), far.into_split());
    let there = |flow| flow != Flow::Nothing;
    let back = |flow| flow == Flow::All;
    tokio::select! {
        biased;
        _ = cut.changed() => {}
        () = pump(near.0, far.1, &state.flow, there, Some(&state.lost)) => {}
        () = pump(far.0, near.1, &state.flow, back, None) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    flow: &watch::Sender<Flow>,
    passes: impl Fn(Flow) -> bool,
    lost: Option<&watch::Sender<usize>>,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let passes = passes(*flow.borrow());
        if passes && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if let Some(lost) = lost.filter(|_| !passes) {
            lost.send_modify(|lost| *lost += count);
        }
    }
}
