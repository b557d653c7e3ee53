use std::{
    process::{Command, Stdio},
    sync::Arc,
};

use stepwell::Worker;
use tokio::sync::Notify;

use crate::{
    held::held,
    proxy::Proxy,
    server::{address, client, describe, job, options, until, within, work},
};

fn has_beaten(job: &stepwell::pb::Job) -> bool {
    job.heartbeat_time.is_some()
}

#[tokio::test]
async fn a_cut_stream_is_resumed_and_its_task_stays_held() {
    let Some(address) = address() else { return };
    let (client_, queue) = (client(address), "cut");
    let proxy = Proxy::to(address).await;
    let (begun, go_on) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let worker = Worker::new(client(proxy.address), options(queue)).activity("held", held(&begun, &go_on));
    let working = work(worker).await;
    let job = job(&client_, "held", (), queue).await;
    within(begun.notified()).await;
    until(&client_, &job, "a heartbeat", has_beaten).await;
    for _ in 0..3 {
        let connections = proxy.accepted();
        proxy.cut();
        within(proxy.another(connections)).await;
    }
    go_on.notify_one();
    assert_eq!(within(job.result::<i32>()).await.unwrap(), 1);
    working.left().await;
}

#[tokio::test]
async fn who_is_asked_to_moves_with_what_he_holds() {
    let Some(address) = address() else { return };
    let (client_, queue) = (client(address), "moved");
    let proxy = Proxy::to(address).await;
    let (begun, go_on) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let worker = Worker::new(client(proxy.address), options(queue)).activity("held", held(&begun, &go_on));
    let working = work(worker).await;
    let job = job(&client_, "held", (), queue).await;
    within(begun.notified()).await;
    for connections in 1..3 {
        within(proxy.another(connections)).await;
    }
    go_on.notify_one();
    assert_eq!(within(job.result::<i32>()).await.unwrap(), 1);
    working.left().await;
}

#[tokio::test]
async fn a_report_that_was_lost_is_sent_again() {
    let Some(address) = address() else { return };
    let (client_, queue) = (client(address), "report");
    let proxy = Proxy::to(address).await;
    let (begun, go_on) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let worker = Worker::new(client(proxy.address), options(queue)).activity("held", held(&begun, &go_on));
    let working = work(worker).await;
    let job = job(&client_, "held", (), queue).await;
    within(begun.notified()).await;
    until(&client_, &job, "a heartbeat", has_beaten).await;
    // It drains, so that it says something, and what it says comes to nobody.
    proxy.hold();
    go_on.notify_one();
    within(proxy.held()).await;
    proxy.cut();
    proxy.let_go();
    assert_eq!(within(job.result::<i32>()).await.unwrap(), 1);
    working.left().await;
}

#[tokio::test]
async fn who_was_away_for_too_long_begins_anew() {
    let Some(address) = address() else { return };
    let (client_, queue) = (client(address), "expired");
    let proxy = Proxy::to(address).await;
    let (begun, go_on) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let worker = Worker::new(client(proxy.address), options(queue)).activity("held", held(&begun, &go_on));
    let working = work(worker).await;
    let first = job(&client_, "held", (), queue).await;
    within(begun.notified()).await;
    until(&client_, &first, "a heartbeat", has_beaten).await;
    proxy.hold();
    // Its session expires, and its attempt is spent.
    let other = work(Worker::new(client_.clone(), options(queue)).activity("held", held(&begun, &go_on))).await;
    within(begun.notified()).await;
    assert_eq!(describe(&client_, &first).await.attempt, 2);
    other.leave();
    proxy.cut();
    proxy.let_go();
    let second = job(&client_, "held", (), queue).await;
    within(begun.notified()).await;
    // One for each that is held: the former attempt has heard that it is lost, and waits no more.
    go_on.notify_one();
    go_on.notify_one();
    go_on.notify_waiters();
    assert_eq!(within(first.result::<i32>()).await.unwrap(), 2);
    go_on.notify_one();
    assert_eq!(within(second.result::<i32>()).await.unwrap(), 1);
    other.left().await;
    working.left().await;
}

#[tokio::test]
async fn a_killed_worker_is_replaced() {
    let Some(address) = address() else { return };
    let (client, queue) = (client(address), "killed");
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conformance"));
        command.env("STEPWELL_ADDRESS", address.to_string()).env("STEPWELL_TASK_QUEUE", queue);
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let mut first = program();
    let input = serde_json::json!({"seconds": 0.2, "every": 0.05});
    let endless = serde_json::json!({"seconds": 1000, "every": 0.05});
    let job_ = job(&client, "beat", &endless, queue).await;
    until(&client, &job_, "a heartbeat", has_beaten).await;
    first.kill().unwrap();
    first.wait().unwrap();
    let mut second = program();
    until(&client, &job_, "another attempt", |job| job.attempt == 2).await;
    let quick = job(&client, "beat", &input, queue).await;
    within(quick.result::<serde_json::Value>()).await.unwrap();
    within(job_.cancel("enough")).await.unwrap();
    assert!(within(job_.result::<()>()).await.is_err());
    let pid = second.id().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    let left = tokio::task::spawn_blocking(move || second.wait().unwrap());
    assert!(within(left).await.unwrap().success());
}
