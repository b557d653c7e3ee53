use std::{
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use stepwell::{ActivityContext, Worker, WorkerOptions};
use tokio::sync::Notify;

use crate::{
    held::held,
    proxy::{Flow, Proxy},
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
    let go_on = Arc::<Notify>::default();
    let told = go_on.clone();
    let write = move |context: ActivityContext, bytes: usize| {
        let told = told.clone();
        async move {
            context.heartbeat("begun")?;
            context.unless_cancelled(told.notified()).await?;
            Ok(format!("{}{}", "x".repeat(bytes), context.info().attempt))
        }
    };
    let working = work(Worker::new(client(proxy.address), options(queue)).activity("write", write)).await;
    // So much that nothing else can be what was lost, and so little that it is said without an answer.
    let bytes = 30_000;
    let job = job(&client_, "write", bytes, queue).await;
    until(&client_, &job, "a heartbeat", has_beaten).await;
    proxy.let_through(Flow::Nothing);
    go_on.notify_one();
    within(proxy.loses(bytes)).await;
    proxy.cut();
    let result = within(job.result::<String>()).await.unwrap();
    assert_eq!(result.trim_start_matches('x'), "1");
    working.left().await;
}

#[tokio::test]
async fn a_report_whose_answer_was_lost_is_done_with() {
    let Some(address) = address() else { return };
    let (client_, queue) = (client(address), "answer");
    let proxy = Proxy::to(address).await;
    let (begun, go_on) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    // It leaves once nothing is open, however long that takes.
    let patient = WorkerOptions { drain_time: Duration::from_secs(1_000), ..options(queue) };
    let worker = Worker::new(client(proxy.address), patient).activity("held", held(&begun, &go_on));
    let working = work(worker).await;
    let job = job(&client_, "held", (), queue).await;
    until(&client_, &job, "a heartbeat", has_beaten).await;
    proxy.let_through(Flow::There);
    go_on.notify_one();
    assert_eq!(within(job.result::<i32>()).await.unwrap(), 1);
    proxy.cut();
    working.left().await;
}

#[tokio::test]
async fn who_was_away_for_too_long_begins_anew() {
    let Some(address) = address() else { return };
    let (client_, queue) = (client(address), "expired");
    let proxy = Proxy::to(address).await;
    let (begun, go_on) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let working = work(Worker::new(client(proxy.address), options(queue)).activity("held", held(&begun, &go_on))).await;
    let first = job(&client_, "held", (), queue).await;
    within(begun.notified()).await;
    until(&client_, &first, "a heartbeat", has_beaten).await;
    // Its session expires, and another has its task, and no room for more.
    proxy.let_through(Flow::Nothing);
    let (begun_there, go_on_there) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let busy = WorkerOptions { max_activities: 1, ..options(queue) };
    let other = Worker::new(client_.clone(), busy).activity("held", held(&begun_there, &go_on_there));
    let other = work(other).await;
    within(begun_there.notified()).await;
    assert_eq!(describe(&client_, &first).await.attempt, 2);
    proxy.cut();
    let second = job(&client_, "held", (), queue).await;
    within(begun.notified()).await;
    // The attempt that was lost has ended, or it would be the one that goes on.
    go_on.notify_one();
    assert_eq!(within(second.result::<i32>()).await.unwrap(), 1);
    go_on_there.notify_one();
    assert_eq!(within(first.result::<i32>()).await.unwrap(), 2);
    other.left().await;
    working.left().await;
}

/// A worker in a process of its own, which does not outlive the test.
struct Process(Child);

impl Process {
    fn start(address: SocketAddr, queue: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conformance"));
        command.env("STEPWELL_ADDRESS", address.to_string()).env("STEPWELL_TASK_QUEUE", queue);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }

    async fn ended(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_killed_worker_is_replaced() {
    let Some(address) = address() else { return };
    let (client, queue) = (client(address), "killed");
    let first = Process::start(address, queue);
    let endless = json!({"seconds": 1000, "every": 0.05});
    let job = job(&client, "beat", &endless, queue).await;
    until(&client, &job, "a heartbeat", has_beaten).await;
    drop(first);
    let mut second = Process::start(address, queue);
    until(&client, &job, "another attempt", |job| job.attempt == 2).await;
    within(job.cancel("enough")).await.unwrap();
    assert!(within(job.result::<()>()).await.is_err());
    assert!(Command::new("kill").arg(second.0.id().to_string()).status().unwrap().success());
    assert!(within(second.ended()).await.success());
}
