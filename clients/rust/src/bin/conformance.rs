//! The worker that the conformance kit tries Stepwell for Rust by: a plain program of the crate's, with the activities
//! that `docs/conformance.md` asks of each language.
//!
//! ```sh
//! cargo build --bin conformance
//! stepwell conformance --only activities -- target/debug/conformance
//! ```

use std::{
    env,
    error::Error,
    fs::OpenOptions,
    io::{self, Write},
    process,
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stepwell::{ActivityContext, ActivityError, Client, Worker, WorkerOptions, shutdown_signal};
use tokio::time::{Instant, sleep};
use tonic::transport::Endpoint;

/// How often the activity `beat` beats before it crashes.
const CRASH_BEATS: u64 = 3;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let shutdown = shutdown_signal()?;
    let address = setting("STEPWELL_ADDRESS", "127.0.0.1:7233".to_owned())?;
    let client = Client::new(Endpoint::from_shared(format!("http://{address}"))?)?
        .with_namespace(setting("STEPWELL_NAMESPACE", "main".to_owned())?);
    let options = WorkerOptions {
        task_queues: vec![setting("STEPWELL_TASK_QUEUE", "conformance".to_owned())?],
        max_activities: setting("STEPWELL_MAX_ACTIVITIES", 10)?,
        ..WorkerOptions::default()
    };
    let worker = Worker::new(client, options)
        .activity("echo", echo)
        .activity("fail", fail)
        .activity("flaky", flaky)
        .activity("hold", hold)
        .activity("beat", beat)
        .activity("effect", effect);
    let connected = worker.connected();
    tokio::spawn(async move {
        connected.await;
        println!("ready");
    });
    Ok(worker.run(shutdown).await?)
}

fn setting<T: FromStr>(name: &str, otherwise: T) -> Result<T, Box<dyn Error>>
where
    T::Err: Error + 'static,
{
    match env::var(name) {
        Ok(text) if !text.is_empty() => Ok(text.parse()?),
        _ => Ok(otherwise),
    }
}

async fn echo(_: ActivityContext, value: Value) -> Result<Value, ActivityError> {
    Ok(value)
}

#[derive(Deserialize)]
struct Fail {
    message: String,
    kind: String,
    non_retryable: bool,
}

async fn fail(_: ActivityContext, told: Fail) -> Result<(), ActivityError> {
    let error = ActivityError::new(told.kind, told.message);
    Err(if told.non_retryable { error.non_retryable() } else { error })
}

#[derive(Deserialize)]
struct Flaky {
    failures: i32,
}

async fn flaky(context: ActivityContext, told: Flaky) -> Result<i32, ActivityError> {
    let attempt = context.info().attempt;
    if attempt <= told.failures {
        return Err(ActivityError::new("Flaky", format!("attempt {attempt} fails")));
    }
    Ok(attempt)
}

#[derive(Deserialize)]
struct Hold {
    seconds: f64,
}

async fn hold(context: ActivityContext, told: Hold) -> Result<&'static str, ActivityError> {
    pause(&context, told.seconds).await?;
    Ok("held")
}

#[derive(Deserialize)]
struct BeatInput {
    seconds: f64,
    every: f64,
    #[serde(default)]
    crash: bool,
}

#[derive(Deserialize, Serialize)]
struct BeatDetails {
    beat: u64,
}

async fn beat(context: ActivityContext, told: BeatInput) -> Result<Value, ActivityError> {
    let resumed_from = context.heartbeat_details::<BeatDetails>()?.map(|details| details.beat);
    let first = resumed_from.unwrap_or(0);
    let crashes = told.crash && context.info().attempt == 1;
    let end = Instant::now() + Duration::try_from_secs_f64(told.seconds)?;
    let mut beats = first;
    while Instant::now() < end {
        beats += 1;
        context.heartbeat(&BeatDetails { beat: beats })?;
        if crashes && beats - first == CRASH_BEATS {
            return Err(ActivityError::new("Crash", "told to crash"));
        }
        pause(&context, told.every).await?;
    }
    Ok(json!({"resumed_from": resumed_from, "beats": beats}))
}

#[derive(Deserialize)]
struct Effect {
    key: String,
    seconds: f64,
}

/// Has an effect outside of Stepwell, a line of the ledger, and then takes a while to say so.
async fn effect(context: ActivityContext, told: Effect) -> Result<String, ActivityError> {
    if let Some(ledger) = env::var_os("STEPWELL_LEDGER").filter(|path| !path.is_empty()) {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        let line = json!({
            "key": told.key,
            "language": "rust",
            "pid": process::id(),
            "attempt": context.info().attempt,
            "time": time,
        });
        tokio::task::spawn_blocking(move || -> io::Result<()> {
            // By one write, so that lines of several processes do not mix.
            let mut file = OpenOptions::new().append(true).create(true).open(ledger)?;
            file.write_all(format!("{line}\n").as_bytes())
        })
        .await??;
    }
    pause(&context, told.seconds).await?;
    Ok(told.key)
}

async fn pause(context: &ActivityContext, seconds: f64) -> Result<(), ActivityError> {
    let time = Duration::try_from_secs_f64(seconds)?;
    context.unless_cancelled(sleep(time)).await
}
