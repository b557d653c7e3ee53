//! A worker with an activity, a job that it performs, and, if its type is named, a run of a workflow in another language:
//! such as `cargo run --example greet -- greet`, where `greet` takes a list of names.

use std::{env, error::Error};

use stepwell::{
    ActivityContext, ActivityError, Client, Worker, WorkerOptions,
    pb::{StartJobRequest, StartRunRequest},
    shutdown_signal,
};
use tonic::transport::Endpoint;

async fn say(_: ActivityContext, name: String) -> Result<String, ActivityError> {
    Ok(format!("Hello, {name}!"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("STEPWELL_ADDRESS").unwrap_or_else(|_| "127.0.0.1:7233".into());
    let client = Client::new(Endpoint::from_shared(format!("http://{address}"))?)?;
    let shutdown = shutdown_signal()?;
    let worker = Worker::new(client.clone(), WorkerOptions::default()).activity("say", say);
    let working = tokio::spawn(worker.run(shutdown.clone()));

    let job = client.start_job("say", "Ada", StartJobRequest::default()).await?;
    println!("{}", job.result::<String>().await?);

    if let Some(workflow) = env::args().nth(1) {
        // Who starts it again by the same id, also after a crash, finds the run that it started before.
        let options = StartRunRequest { request_id: format!("greetings by {workflow}"), ..Default::default() };
        let run = client.start_run(&workflow, &["Ada", "Grace"], options).await?;
        println!("{:?}", run.result::<Vec<String>>().await?);
    }

    shutdown.cancel();
    Ok(working.await??)
}
