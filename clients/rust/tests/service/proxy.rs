//! A way to the service that can be cut and held up.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

pub struct Proxy {
    pub address: SocketAddr,
    /// Connections of a generation that is over are cut.
    generation: watch::Sender<usize>,
    is_open: watch::Sender<bool>,
    accepted: watch::Sender<usize>,
    /// What waits to be let go.
    waiting: watch::Sender<usize>,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (generation, is_open) = (watch::Sender::new(0), watch::Sender::new(true));
        let (accepted, waiting) = (watch::Sender::new(0), watch::Sender::new(0));
        let (generations, opened) = (generation.clone(), is_open.clone());
        let (count, waits) = (accepted.clone(), waiting.clone());
        let serving = tokio::spawn(async move {
            loop {
                let near = listener.accept().await.unwrap().0;
                count.send_modify(|count| *count += 1);
                let far = TcpStream::connect(service).await.unwrap();
                let mut cut = generations.subscribe();
                let (near, far) = (near.into_split(), far.into_split());
                let waits = waits.clone();
                let (there, back) = (opened.subscribe(), opened.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = pump(near.0, far.1, there, waits) => {}
                        () = pump(far.0, near.1, back, watch::Sender::new(0)) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, generation, is_open, accepted, waiting, serving }
    }

    /// Ends all connections that are open; later ones are let through.
    pub fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Lets nothing through any more, and tells nobody.
    pub fn hold(&self) {
        self.is_open.send_replace(false);
    }

    pub fn let_go(&self) {
        self.is_open.send_replace(true);
    }

    /// Waits until a client has said something that is held.
    pub async fn held(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.unwrap();
    }

    /// Waits for another connection than those.
    pub async fn another(&self, than: usize) {
        self.accepted.subscribe().wait_for(|accepted| *accepted > than).await.unwrap();
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> usize {
        *self.accepted.borrow()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
        self.cut();
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut is_open: watch::Receiver<bool>,
    waiting: watch::Sender<usize>,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !*is_open.borrow() {
            waiting.send_modify(|waiting| *waiting += 1);
        }
        let passes = is_open.wait_for(|is| *is).await.is_ok();
        if !passes || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
