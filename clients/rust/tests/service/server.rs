//! A service for all tests, and what they do with it.

use std::{
    env, fs,
    future::Future,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio, id},
    sync::OnceLock,
    thread,
    time::Duration,
};

use stepwell::{CancellationToken, Client, Error, Job, Worker, WorkerOptions, pb};
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

/// The keeper ends the service once its input is closed: however the tests end.
struct Server {
    address: SocketAddr,
    _keeper: Child,
}

const KEPT: &str = r#"
"$1" dev --data-dir "$2/data" --port 0 --test-clock </dev/null &
read -r _ <&3
kill $!
wait
rm -rf "$2"
"#;

/// Where the service is. None if there is none to start, and none must be.
pub fn address() -> Option<SocketAddr> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let program = program();
        assert!(program.is_some() || env::var_os("CI").is_none(), "stepwell-server is not here");
        program.map(start)
    });
    if server.is_none() {
        eprintln!("SKIPPED: stepwell-server is not here");
    }
    server.as_ref().map(|server| server.address)
}

fn program() -> Option<PathBuf> {
    if let Some(program) = env::var_os("STEPWELL_SERVER") {
        return Some(program.into());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join("stepwell-server")).find(|file| file.is_file())
}

fn start(program: PathBuf) -> Server {
    let folder = env::temp_dir().join(format!("stepwell-rust-{}", id()));
    fs::create_dir_all(&folder).unwrap();
    let mut keeper = Command::new("sh")
        .args(["-c", &format!("exec 3<&0\n{KEPT}"), "sh"])
        .args([program, folder])
        .env("STEPWELL_SESSION_SECONDS", "4")
        .env("STEPWELL_HEARTBEAT_SECONDS", "1")
        .env("STEPWELL_ACK_SECONDS", "2")
        // So workers are asked to move while all else goes on.
        .env("STEPWELL_CONNECTION_SECONDS", "3")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(if env::var_os("STEPWELL_SERVER_LOG").is_some() { Stdio::inherit() } else { Stdio::null() })
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(keeper.stdout.take().unwrap());
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert_ne!(
            lines.read_line(&mut line).unwrap(),
            0,
            "it ended before it served; STEPWELL_SERVER_LOG=1 tells more"
        );
        if let Some((_, rest)) = line.split_once("serves on ") {
            break rest.split_whitespace().next().unwrap().parse().unwrap();
        }
    };
    // Nobody reads the rest, and it must not wait for that.
    thread::spawn(move || lines.read_to_end(&mut Vec::new()));
    Server { address, _keeper: keeper }
}

pub fn client(address: SocketAddr) -> Client {
    Client::new(Endpoint::from_shared(format!("http://{address}")).unwrap()).unwrap()
}

/// A worker at work.
pub struct Working {
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), Error>>,
}

impl Working {
    /// Lets it leave.
    pub fn leave(&self) {
        self.shutdown.cancel();
    }

    pub async fn left(self) {
        self.leave();
        within(self.ended).await.unwrap().unwrap();
    }
}

pub fn options(queue: &str) -> WorkerOptions {
    WorkerOptions { task_queues: vec![queue.into()], ..WorkerOptions::default() }
}

/// Has a worker work, and waits until it is connected.
pub async fn work(worker: Worker) -> Working {
    let (shutdown, connected) = (CancellationToken::new(), worker.connected());
    let ended = tokio::spawn(worker.run(shutdown.clone()));
    within(connected).await;
    Working { shutdown, ended }
}

pub fn queued(queue: &str) -> pb::StartJobRequest {
    pb::StartJobRequest { task_queue: queue.into(), ..Default::default() }
}

pub async fn job(client: &Client, activity: &str, input: impl serde::Serialize, queue: &str) -> Job {
    within(client.start_job(activity, &input, queued(queue))).await.unwrap()
}

pub async fn describe(client: &Client, job: &Job) -> pb::Job {
    let request = pb::GetJobRequest { job_id: job.id().into(), ..Default::default() };
    let call = |request| {
        let mut jobs = client.jobs();
        async move { jobs.get_job(request).await }
    };
    within(client.call(request, call)).await.unwrap().job.unwrap()
}

/// Waits until a job's row is as it should be.
pub async fn until(client: &Client, job: &Job, what: &str, holds: impl Fn(&pb::Job) -> bool) {
    let seen = async {
        while !holds(&describe(client, job).await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), seen).await.is_ok(), "it never came: {what}");
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it took too long")
}
