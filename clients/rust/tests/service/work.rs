use std::{sync::Arc, time::Duration};

use stepwell::{ActivityContext, ActivityError, Error, Worker, WorkerOptions, pb::StartJobRequest};
use tokio::sync::{Notify, mpsc};

use crate::{
    held::held,
    server::{address, client, describe, job, options, queued, until, within, work},
};

fn ended(error: Error) -> (String, stepwell::pb::Failure) {
    let Error::Ended(ended) = error else { panic!("it has ended, and not {error}") };
    (ended.how, ended.failure.unwrap_or_default())
}

#[tokio::test]
async fn a_job_is_performed() {
    let Some(address) = address() else { return };
    let (client, queue) = (client(address), "performed");
    let say = |context: ActivityContext, name: String| async move {
        let info = context.info();
        Ok(format!("{name} {} {} {}", info.r#type, info.attempt, info.job_id))
    };
    let working = work(Worker::new(client.clone(), options(queue)).activity("say", say)).await;
    let job = job(&client, "say", "Ada", queue).await;
    assert_eq!(within(job.result::<String>()).await.unwrap(), format!("Ada say 1 {}", job.id()));
    working.left().await;
}

#[tokio::test]
async fn what_fails_is_tried_again() {
    let Some(address) = address() else { return };
    let (client, queue) = (client(address), "retried");
    let flaky = |context: ActivityContext, failures: i32| async move {
        let attempt = context.info().attempt;
        if attempt <= failures {
            return Err(ActivityError::new("Flaky", "once more").retry_after(Duration::from_millis(1)));
        }
        Ok(attempt)
    };
    let working = work(Worker::new(client.clone(), options(queue)).activity("flaky", flaky)).await;
    let job = job(&client, "flaky", 2, queue).await;
    assert_eq!(within(job.result::<i32>()).await.unwrap(), 3);
    assert_eq!(describe(&client, &job).await.last_failure.unwrap().r#type, "Flaky");
    working.left().await;
}

#[tokio::test]
async fn failures_tell_their_kind() {
    let Some(address) = address() else { return };
    let (client, queue) = (client(address), "failed");
    let worker = Worker::new(client.clone(), options(queue))
        .activity("refuse", |_, amount: i32| async move {
            let error = ActivityError::new("TooMuch", "no").details(&amount)?;
            Err::<(), _>(error.non_retryable())
        })
        .activity("pay", |_, (): ()| async { Ok(()) })
        .activity("write", |_, bytes: usize| async move { Ok("x".repeat(bytes)) });
    let working = work(worker).await;
    let (how, failure) = ended(within(job(&client, "refuse", 3, queue).await.result::<()>()).await.unwrap_err());
    assert_eq!((how.as_str(), failure.r#type.as_str(), failure.message.as_str()), ("FAILED", "TooMuch", "no"));
    assert_eq!(stepwell::from_payload::<i32>(failure.details.as_ref()).unwrap(), 3);
    let (_, failure) = ended(within(job(&client, "pay", "much", queue).await.result::<()>()).await.unwrap_err());
    assert_eq!(failure.r#type, "InvalidInput");
    // What can't be written fails for good: another attempt would not be either.
    let large = job(&client, "write", 3 << 20, queue).await;
    let (_, failure) = ended(within(large.result::<()>()).await.unwrap_err());
    assert_eq!(failure.r#type, "PayloadError");
    assert_eq!(describe(&client, &large).await.attempt, 1);
    working.left().await;
}

#[tokio::test]
async fn a_panic_is_a_failure() {
    let Some(address) = address() else { return };
    let (client, queue) = (client(address), "panicked");
    let slip = |context: ActivityContext, (): ()| async move {
        assert!(context.info().attempt > 1, "slipped");
        Ok(())
    };
    let working = work(Worker::new(client.clone(), options(queue)).activity("slip", slip)).await;
    let job = job(&client, "slip", (), queue).await;
    within(job.result::<()>()).await.unwrap();
    let failure = describe(&client, &job).await.last_failure.unwrap();
    assert_eq!((failure.r#type.as_str(), failure.message.as_str()), ("Panic", "slipped"));
    working.left().await;
}

#[tokio::test]
async fn the_next_attempt_gets_the_last_details() {
    let Some(address) = address() else { return };
    let (client, queue) = (client(address), "detailed");
    let resume = |context: ActivityContext, (): ()| async move {
        if let Some(at) = context.heartbeat_details::<i32>()? {
            return Ok(at);
        }
        context.heartbeat(&1)?;
        context.heartbeat(&7)?;
        context.alive();
        Err(ActivityError::new("Once", "once more").retry_after(Duration::from_millis(1)))
    };
    let working = work(Worker::new(client.clone(), options(queue)).activity("resume", resume)).await;
    // Half of it is the interval of heartbeats, and longer than what a timer takes.
    let patient = StartJobRequest {
        heartbeat_timeout: Some(prost_types::Duration { seconds: 8 * 365 * 24 * 3600, nanos: 0 }),
        ..queued(queue)
    };
    let job = within(client.start_job("resume", &(), patient)).await.unwrap();
    assert_eq!(within(job.result::<i32>()).await.unwrap(), 7);
    working.left().await;
}

#[tokio::test]
async fn a_cancelled_job_hears_of_it() {
    let Some(address) = address() else { return };
    let (client, queue) = (client(address), "cancelled");
    let (begun, mut begins) = mpsc::unbounded_channel();
    let wait = move |context: ActivityContext, cleans: bool| {
        let begun = begun.clone();
        async move {
            begun.send(()).unwrap();
            let told = context.unless_cancelled(std::future::pending::<()>()).await;
            if cleans { Ok("cleaned") } else { told.map(|()| "never") }
        }
    };
    let working = work(Worker::new(client.clone(), options(queue)).activity("wait", wait)).await;
    for cleans in [false, true] {
        let job = job(&client, "wait", cleans, queue).await;
        within(begins.recv()).await.unwrap();
        assert!(within(job.cancel("enough")).await.unwrap());
        match within(job.result::<String>()).await {
            Ok(result) => assert_eq!((cleans, result.as_str()), (true, "cleaned")),
            Err(error) => assert_eq!((cleans, ended(error).0.as_str()), (false, "CANCELLED")),
        }
    }
    working.left().await;
}

#[tokio::test]
async fn who_leaves_ends_what_is_in_work() {
    let Some(address) = address() else { return };
    let (client, queue) = (client(address), "drained");
    let (begun, go_on) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let worker = Worker::new(client.clone(), options(queue)).activity("held", held(&begun, &go_on));
    let working = work(worker).await;
    let first = job(&client, "held", (), queue).await;
    within(begun.notified()).await;
    working.leave();
    // It takes no more: another one is performed by another worker.
    let other = work(Worker::new(client.clone(), options(queue)).activity("held", |_, (): ()| async { Ok(0) })).await;
    let second = job(&client, "held", (), queue).await;
    assert_eq!(within(second.result::<i32>()).await.unwrap(), 0);
    go_on.notify_one();
    assert_eq!(within(first.result::<i32>()).await.unwrap(), 1);
    working.left().await;
    other.left().await;
}

#[tokio::test]
async fn who_leaves_gives_back_what_does_not_end() {
    let Some(address) = address() else { return };
    let (client, queue) = (client(address), "released");
    let (begun, go_on) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let hurried = WorkerOptions { drain_time: Duration::ZERO, ..options(queue) };
    let working = work(Worker::new(client.clone(), hurried).activity("held", held(&begun, &go_on))).await;
    let job = job(&client, "held", (), queue).await;
    // An attempt of which the service has not heard would not be spent in any case.
    until(&client, &job, "a heartbeat", |job| job.heartbeat_time.is_some()).await;
    working.left().await;
    go_on.notify_one();
    let other = work(Worker::new(client.clone(), options(queue)).activity("held", held(&begun, &go_on))).await;
    // The attempt was not spent.
    assert_eq!(within(job.result::<i32>()).await.unwrap(), 1);
    other.left().await;
}
