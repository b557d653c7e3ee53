//! The Rust client of Stepwell, a durable-workflow service: a [`Client`] that starts runs and jobs and waits for their
//! ends, and a [`Worker`] that performs activities and jobs.
//!
//! ```no_run
//! use stepwell::{ActivityContext, ActivityError, Client, Worker, WorkerOptions, pb::StartJobRequest};
//! use tonic::transport::Endpoint;
//!
//! async fn say(_: ActivityContext, name: String) -> Result<String, ActivityError> {
//!     Ok(format!("Hello, {name}!"))
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(Endpoint::from_static("http://127.0.0.1:7233"))?;
//! let worker = Worker::new(client.clone(), WorkerOptions::default()).activity("say", say);
//! tokio::spawn(worker.run(stepwell::shutdown_signal()?));
//!
//! let job = client.start_job("say", "Ada", StartJobRequest::default()).await?;
//! let greeting: String = job.result().await?;
//! # Ok(())
//! # }
//! ```

mod attempt;
mod client;
mod error;
mod handles;
mod payload;
mod session;
mod stream;
mod worker;

pub use attempt::ActivityContext;
pub use client::{Authorize, Client, Connection};
pub use error::{ActivityError, Ended, Error, Refusal};
pub use handles::{Job, Run};
pub use payload::{PayloadError, from_payload, to_payload};
pub use tokio_util::sync::CancellationToken;
pub use tonic;
pub use worker::{Worker, WorkerOptions, shutdown_signal};

/// The stubs, generated from `proto/stepwell/v1`: all messages, and a client for each service.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    tonic::include_proto!("stepwell.v1");
}
