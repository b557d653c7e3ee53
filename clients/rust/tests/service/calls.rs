use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use stepwell::{Client, Error, pb::StartRunRequest};
use tonic::{Code, transport::Endpoint};

use crate::{
    proxy::Proxy,
    server::{address, client, describe, job, queued, within},
};

#[tokio::test]
async fn a_refusal_tells_its_reason_and_the_field() {
    let Some(address) = address() else { return };
    let error = within(client(address).start_job("", &1, queued("refused"))).await.unwrap_err();
    assert_eq!(error.reason(), "INVALID_FIELD");
    let Error::Refused(refusal) = error else { panic!("it was refused") };
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.fields.contains_key("type"), "{refusal:?}");
}

#[tokio::test]
async fn a_repeated_start_finds_its_run() {
    let Some(address) = address() else { return };
    let client = client(address);
    let options = StartRunRequest { request_id: "once".into(), task_queue: "nobody".into(), ..Default::default() };
    let first = within(client.start_run("greet", "Ada", options.clone())).await.unwrap();
    let second = within(client.start_run("greet", "Ada", options.clone())).await.unwrap();
    assert_eq!(first.id(), second.id());
    let other = within(client.start_run("greet", "Grace", options)).await.unwrap_err();
    assert_eq!(other.reason(), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_run_that_did_not_end_well_tells_how() {
    let Some(address) = address() else { return };
    let client = client(address);
    let options = StartRunRequest { task_queue: "nobody".into(), ..Default::default() };
    let run = within(client.start_run("greet", "Ada", options)).await.unwrap();
    assert!(within(run.cancel("enough")).await.unwrap());
    assert!(!within(run.cancel("enough")).await.unwrap());
    let Error::Ended(ended) = within(run.result::<String>()).await.unwrap_err() else { panic!("it has ended") };
    assert_eq!((ended.how.as_str(), ended.id.as_str()), ("CANCELLED", run.id()));
}

#[tokio::test]
async fn a_call_outlives_its_connection() {
    let Some(address) = address() else { return };
    let proxy = Proxy::to(address).await;
    let client = client(proxy.address);
    let job = job(&client, "nobody's", 1, "nobody").await;
    let waiting = tokio::spawn({
        let job = job.clone();
        async move { job.result::<i32>().await }
    });
    for _ in 0..3 {
        proxy.cut();
        assert!(!waiting.is_finished());
        describe(&client, &job).await;
    }
    within(job.cancel("enough")).await.unwrap();
    let Error::Ended(ended) = within(waiting).await.unwrap().unwrap_err() else { panic!("it has ended") };
    assert_eq!(ended.how, "CANCELLED");
    assert!(proxy.accepted() > 1);
}

#[tokio::test]
async fn nobody_there_is_an_error_once_the_time_is_over() {
    let endpoint = Endpoint::from_static("http://127.0.0.1:1");
    let client = Client::new(endpoint).unwrap().with_call_time(Duration::from_millis(200));
    let begun = Instant::now();
    let Error::Refused(refusal) = within(client.start_job("say", &1, queued("x"))).await.unwrap_err() else {
        panic!("it was refused")
    };
    assert_eq!(refusal.code, Code::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(Client::new(Endpoint::from_static("http://127.0.0.1:1")).unwrap().with_api_key("a\nb").is_err());
}

#[tokio::test]
async fn the_example_greets() {
    let Some(address) = address() else { return };
    // Cargo builds the examples with the tests, beside the programs.
    let program = Path::new(env!("CARGO_BIN_EXE_conformance")).with_file_name("examples/greet");
    let mut command = Command::new(program);
    command.env("STEPWELL_ADDRESS", address.to_string());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within(output).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "Hello, Ada!\n");
}
