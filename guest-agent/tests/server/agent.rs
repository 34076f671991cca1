//! An agent of a test's own, and the host's side of the interface.

use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::{Status, Streaming};

#[allow(missing_docs)]
pub mod proto {
    tonic::include_proto!("vruntime.agent.v1");
}

use proto::containers_client::ContainersClient;
use proto::processes_client::ProcessesClient;
use proto::sandbox_client::SandboxClient;
use proto::streams_client::StreamsClient;
use proto::*;

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &[&str] = &["cat", "dd", "echo", "head", "ls", "sh", "sleep", "stty", "true", "wc"];

pub const STDOUT: u32 = 1;
pub const STDERR: u32 = 2;

/// The most of a message that is accepted.
const MAX_MESSAGE: usize = 4 << 20;

pub type Chunks = Pin<Box<dyn futures_util::Stream<Item = InputChunk> + Send>>;

type Answer<T> = Result<T, Status>;

/// A server in a directory and a cgroup of its own, which end with it.
pub struct Agent {
    directory: PathBuf,
    cgroup: PathBuf,
    child: Child,
}

impl Agent {
    pub async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "vruntime-server-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let directory = std::env::temp_dir().join(&name);
        make_root(&directory.join("rootfs")).expect("a root file system with busybox");
        let cgroup = cgroup2().join(&name);
        fs::create_dir(&cgroup).expect("a cgroup (needs root)");
        let child = Command::new(env!("CARGO_BIN_EXE_vruntime-agent"))
            .args([Path::new("--listen-unix"), &directory.join("socket")])
            .args([Path::new("--cgroup-root"), &cgroup])
            .spawn()
            .expect("the agent");
        Self {
            directory,
            cgroup,
            child,
        }
    }

    pub fn cgroup(&self, container: &str) -> PathBuf {
        self.cgroup.join("containers").join(container)
    }

    pub async fn connect(&self) -> Host {
        let stream = self.dial().await;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        Host {
            channel: Channel(sender),
            rootfs: self.directory.join("rootfs"),
        }
    }

    async fn dial(&self) -> UnixStream {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match UnixStream::connect(self.directory.join("socket")).await {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < deadline, "the agent does not listen: {error}"),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits for its own end.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent does not end");
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !remove_cgroups(&self.cgroup) {
            assert!(
                Instant::now() < deadline || std::thread::panicking(),
                "the cgroup is still in use"
            );
            std::thread::yield_now();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn remove_cgroups(directory: &Path) -> bool {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    fs::remove_dir(directory).is_ok() || !directory.exists()
}

fn make_root(root: &Path) -> std::io::Result<()> {
    for directory in ["bin", "dev", "etc", "proc"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n")
}

/// Where the cgroup v2 hierarchy is mounted; hosts with v1 have it beside that.
fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc");
    let entry = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2");
    entry.expect("a cgroup v2 hierarchy")[1].into()
}

/// An OCI process that runs a script.
pub fn process(script: &str) -> Value {
    json!({"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}})
}

/// The same on a terminal.
pub fn terminal(script: &str) -> Value {
    let mut process = process(script);
    process["terminal"] = json!(true);
    process
}

/// A connection to the agent.
#[derive(Clone)]
struct Channel(http2::SendRequest<Body>);

impl tonic::codegen::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// The host's side of a connection.
#[derive(Clone)]
pub struct Host {
    channel: Channel,
    rootfs: PathBuf,
}

impl Host {
    fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::with_origin(self.channel.clone(), http::Uri::from_static("http://agent"))
    }

    fn processes(&self) -> ProcessesClient<Channel> {
        ProcessesClient::with_origin(self.channel.clone(), http::Uri::from_static("http://agent"))
    }

    fn streams(&self) -> StreamsClient<Channel> {
        StreamsClient::with_origin(self.channel.clone(), http::Uri::from_static("http://agent"))
            .max_decoding_message_size(MAX_MESSAGE)
    }

    pub async fn shutdown(&mut self) -> Answer<()> {
        let mut sandbox = SandboxClient::with_origin(self.channel.clone(), http::Uri::from_static("http://agent"));
        sandbox.shutdown(ShutdownRequest {}).await.map(drop)
    }

    pub async fn create(&mut self, id: &str, process: Value) -> Answer<CreateResponse> {
        self.create_with(id, process, false).await
    }

    pub async fn create_with(&mut self, id: &str, process: Value, notify: bool) -> Answer<CreateResponse> {
        let namespaces: Vec<Value> = ["pid", "mount", "ipc", "uts"]
            .iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        let config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": self.rootfs},
            "process": process,
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {"namespaces": namespaces},
        });
        let request = CreateRequest {
            container_id: id.to_owned(),
            oci_config: config.to_string().into(),
            stdio: Some(Stdio {
                stdin: true,
                stdout: true,
                stderr: true,
                ..Stdio::default()
            }),
            notify,
            ..CreateRequest::default()
        };
        Ok(self.containers().create(request).await?.into_inner())
    }

    pub async fn start(&mut self, id: &str) -> Answer<StartResponse> {
        Ok(self
            .containers()
            .start(StartRequest {
                container_id: id.to_owned(),
            })
            .await?
            .into_inner())
    }

    /// Creates and starts a container; its pid.
    pub async fn run(&mut self, id: &str, process: Value) -> u32 {
        let created = self.create(id, process).await.expect("a container");
        assert_eq!(created.error, None);
        assert_eq!(self.start(id).await.expect("a start").error, None);
        created.pid
    }

    pub async fn delete(&mut self, id: &str) -> Answer<()> {
        self.containers()
            .delete(DeleteRequest {
                container_id: id.to_owned(),
            })
            .await
            .map(drop)
    }

    pub async fn pause(&mut self, id: &str) -> Answer<()> {
        let container_id = id.to_owned();
        self.containers().pause(PauseRequest { container_id }).await.map(drop)
    }

    pub async fn resume(&mut self, id: &str) -> Answer<()> {
        let container_id = id.to_owned();
        self.containers().resume(ResumeRequest { container_id }).await.map(drop)
    }

    pub async fn update(&mut self, id: &str, resources: Value) -> Answer<()> {
        let request = UpdateRequest {
            container_id: id.to_owned(),
            oci_resources: resources.to_string().into(),
        };
        self.containers().update(request).await.map(drop)
    }

    pub async fn events(&mut self, id: &str) -> Answer<Streaming<Event>> {
        let container_id = id.to_owned();
        Ok(self
            .containers()
            .events(EventsRequest { container_id })
            .await?
            .into_inner())
    }

    pub async fn list(&mut self, id: &str) -> Answer<Vec<ProcessInfo>> {
        let request = ListProcessesRequest {
            container_id: id.to_owned(),
        };
        Ok(self.containers().list_processes(request).await?.into_inner().processes)
    }

    pub async fn exec(&mut self, container: &str, id: &str, process: Value) -> Answer<ExecResponse> {
        self.exec_with(
            container,
            id,
            process,
            Stdio {
                stdin: true,
                stdout: true,
                stderr: true,
                ..Stdio::default()
            },
        )
        .await
    }

    pub async fn exec_with(&mut self, container: &str, id: &str, process: Value, stdio: Stdio) -> Answer<ExecResponse> {
        let request = ExecRequest {
            container_id: container.to_owned(),
            process_id: id.to_owned(),
            oci_process: process.to_string().into(),
            stdio: Some(stdio),
        };
        Ok(self.processes().exec(request).await?.into_inner())
    }

    pub async fn signal(&mut self, container: &str, id: &str, signal: u32) -> Answer<()> {
        let request = SignalRequest {
            container_id: container.to_owned(),
            process_id: id.to_owned(),
            signal,
            all: false,
        };
        self.processes().signal(request).await.map(drop)
    }

    pub async fn signal_all(&mut self, container: &str, signal: u32) -> Answer<()> {
        let request = SignalRequest {
            container_id: container.to_owned(),
            signal,
            all: true,
            ..SignalRequest::default()
        };
        self.processes().signal(request).await.map(drop)
    }

    pub async fn wait(&mut self, container: &str, id: &str) -> Answer<u32> {
        let request = WaitRequest {
            container_id: container.to_owned(),
            process_id: id.to_owned(),
        };
        Ok(self.processes().wait(request).await?.into_inner().exit_code)
    }

    pub async fn resize(&mut self, container: &str, id: &str, rows: u32, columns: u32) -> Answer<()> {
        let request = ResizeTerminalRequest {
            container_id: container.to_owned(),
            process_id: id.to_owned(),
            rows,
            columns,
        };
        self.processes().resize_terminal(request).await.map(drop)
    }

    pub async fn forget(&mut self, container: &str, id: &str) -> Answer<()> {
        let request = ForgetRequest {
            container_id: container.to_owned(),
            process_id: id.to_owned(),
        };
        self.processes().forget(request).await.map(drop)
    }

    pub async fn output(&mut self, container: &str, id: &str, descriptor: u32) -> Answer<Streaming<OutputChunk>> {
        let request = ReadOutputRequest {
            container_id: container.to_owned(),
            process_id: id.to_owned(),
            descriptor,
        };
        Ok(self.streams().read_output(request).await?.into_inner())
    }

    pub async fn close_output(&mut self, container: &str, id: &str, descriptor: u32) -> Answer<()> {
        let request = CloseOutputRequest {
            container_id: container.to_owned(),
            process_id: id.to_owned(),
            descriptor,
        };
        self.streams().close_output(request).await.map(drop)
    }

    /// All of a stream, to its end.
    pub async fn read(&mut self, container: &str, id: &str, descriptor: u32) -> Answer<Vec<u8>> {
        let mut output = self.output(container, id, descriptor).await?;
        let mut data = Vec::new();
        while let Some(chunk) = output.message().await? {
            data.extend_from_slice(&chunk.data);
        }
        Ok(data)
    }

    pub async fn write(&mut self, container: &str, id: &str, data: Vec<u8>) -> Answer<u64> {
        self.write_blocks(container, id, data, 1).await
    }

    /// Writes a block of data a number of times.
    pub async fn write_blocks(&mut self, container: &str, id: &str, block: Vec<u8>, count: usize) -> Answer<u64> {
        let chunk = InputChunk {
            container_id: container.to_owned(),
            process_id: id.to_owned(),
            data: block.into(),
            descriptor: 0,
        };
        self.write_stream(Box::pin(futures_util::stream::iter(std::iter::repeat_n(chunk, count))))
            .await
    }

    pub async fn write_stream(&mut self, chunks: Chunks) -> Answer<u64> {
        Ok(self.streams().write_input(chunks).await?.into_inner().accepted_bytes)
    }
}
