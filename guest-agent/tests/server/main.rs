//! The server as the host sees it: the real executable behind a unix socket, with real containers of busybox.
//!
//! It makes namespaces, mounts and cgroups, so it needs root and a cgroup v2 hierarchy; it leaves nothing behind. What
//! needs a guest of its own (clock, entropy, share, limits of cgroup v2) is tested there.

mod agent;

use std::time::{Duration, Instant};

use agent::proto::{self, InputChunk, Stdio};
use agent::{Agent, STDERR, STDOUT, process, terminal};
use serde_json::json;
use tonic::Code;

const MEBIBYTE: usize = 1 << 20;

/// Bytes without a period that a chunk could hide.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn a_container_lives_from_create_to_delete() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    let pid = host
        .create("c", process("cat; echo end >&2; exit 7"))
        .await
        .unwrap()
        .pid;
    assert!(pid > 1);
    assert_eq!(
        host.create("c", process("true")).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    host.start("c").await.unwrap();
    assert_eq!(host.start("c").await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(host.write("c", "init", b"hello".to_vec()).await.unwrap(), 5);
    assert_eq!(host.read("c", "init", STDOUT).await.unwrap(), b"hello");
    assert_eq!(host.read("c", "init", STDERR).await.unwrap(), b"end\n");
    assert_eq!(host.wait("c", "init").await.unwrap(), 7);
    assert_eq!(host.wait("c", "init").await.unwrap(), 7);
    let refused = host.exec("c", "late", process("true")).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message().contains("stopped")),
        (Code::FailedPrecondition, true)
    );
    host.delete("c").await.unwrap();
    assert_eq!(host.wait("c", "init").await.unwrap_err().code(), Code::NotFound);
    assert!(!agent.cgroup("c").exists());
    host.create("c", process("true")).await.expect("the id is free again");
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_leaves_nothing() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    let mut missing = process("");
    missing["args"] = serde_json::json!(["nonesuch"]);
    let answer = host.create("c", missing.clone()).await.unwrap();
    let error = answer.error.expect("an executable error");
    assert_eq!(error.message, r#"exec: "nonesuch": executable file not found in $PATH"#);
    assert_eq!(answer.pid, 0);
    assert!(!agent.cgroup("c").exists());

    host.run("c", process("sleep 100")).await;
    assert!(host.exec("c", "p", missing).await.unwrap().error.is_some());
    host.exec("c", "p", process("true"))
        .await
        .expect("the id is free again");
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    for id in ["", "..", "a/b", "a\nb", &"x".repeat(5_000)] {
        assert_eq!(
            host.create(id, process("true")).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{id:?}"
        );
    }
    host.run("c", process("sleep 100")).await;
    for signal in [0, 65, u32::MAX] {
        assert_eq!(
            host.signal("c", "init", signal).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    assert_eq!(
        host.resize("c", "init", 70_000, 1).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(
        host.resize("c", "init", 1, 1).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert_eq!(host.wait("c", "nobody").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(
        host.forget("c", "init").await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn a_hundred_megabytes_pass_unchanged_both_ways() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("cat")).await;
    let block = pattern(MEBIBYTE);
    let mut output = host.output("c", "init", STDOUT).await.unwrap();
    let mut writer = host.clone();
    let compare = async {
        let mut received = 0;
        while let Some(chunk) = output.message().await.unwrap() {
            assert!(chunk.data.len() <= MEBIBYTE);
            for byte in chunk.data {
                assert_eq!(byte, block[received % MEBIBYTE], "byte {received}");
                received += 1;
            }
        }
        received
    };
    let (written, received) = tokio::join!(writer.write_blocks("c", "init", block.clone(), 100), compare);
    assert_eq!((written.unwrap(), received), (100 * MEBIBYTE as u64, 100 * MEBIBYTE));
    assert_eq!(host.wait("c", "init").await.unwrap(), 0);
}

#[tokio::test]
async fn the_end_of_the_process_is_told_before_the_end_of_the_stream() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("sleep 100")).await;
    host.exec("c", "p", process("echo own; (sleep 1; echo child) & exit 3"))
        .await
        .unwrap();
    let mut output = host.output("c", "p", STDOUT).await.unwrap();
    let mut account = Vec::new();
    while let Some(chunk) = output.message().await.unwrap() {
        account.push((String::from_utf8(chunk.data.to_vec()).unwrap(), chunk.process_ended));
    }
    let expected = [
        ("own\n".to_owned(), false),
        (String::new(), true),
        ("child\n".to_owned(), false),
    ];
    assert_eq!(account, expected);
    assert_eq!(host.wait("c", "p").await.unwrap(), 3);
}

#[tokio::test]
async fn forgetting_a_process_ends_its_streams() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("sleep 100")).await;
    host.exec("c", "p", process("sleep 100 &")).await.unwrap();
    let mut output = host.output("c", "p", STDOUT).await.unwrap();
    assert!(
        output
            .message()
            .await
            .unwrap()
            .expect("the end of the process")
            .process_ended
    );
    host.forget("c", "p").await.unwrap();
    assert!(output.message().await.unwrap().is_none());
    assert_eq!(host.wait("c", "p").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_writer_waits_for_its_reader_and_hears_of_its_end() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("sleep 100")).await;
    host.exec("c", "p", process("head -c 10")).await.unwrap();
    // The stream of requests stays open: the answer comes because nobody reads any more.
    let first = InputChunk {
        container_id: "c".into(),
        process_id: "p".into(),
        data: b"0123456789"[..].into(),
        descriptor: 0,
    };
    let (sender, chunks) = held_open(first);
    let accepted = tokio::time::timeout(Duration::from_secs(10), host.write_stream(chunks)).await;
    assert_eq!(accepted.expect("an answer").unwrap(), 10);
    drop(sender);
    assert_eq!(host.read("c", "p", STDOUT).await.unwrap(), b"0123456789");
}

/// A stream that gives one chunk, and stays open until the guard is dropped.
fn held_open(first: InputChunk) -> (tokio::sync::oneshot::Sender<()>, agent::Chunks) {
    let (guard, dropped) = tokio::sync::oneshot::channel();
    let stream = futures_util::stream::unfold((Some(first), dropped), |(first, mut dropped)| async move {
        match first {
            Some(chunk) => Some((chunk, (None, dropped))),
            None => {
                let _ = (&mut dropped).await;
                None
            }
        }
    });
    (guard, Box::pin(stream))
}

#[tokio::test]
async fn a_process_that_nobody_reads_is_stopped_by_its_pipe() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    let script = "dd if=/dev/zero bs=64k count=160 2>/dev/null; echo done >&2";
    host.run("c", process(script)).await;
    let mut errors = host.output("c", "init", STDERR).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(500), errors.message()).await;
    assert!(early.is_err(), "10 MiB went into a pipe: {early:?}");
    assert_eq!(host.read("c", "init", STDOUT).await.unwrap().len(), 10 * MEBIBYTE);
    assert_eq!(&errors.message().await.unwrap().expect("a chunk").data[..], b"done\n");
}

#[tokio::test]
async fn a_writer_whose_output_is_closed_gets_sigpipe() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("sleep 100")).await;
    host.exec("c", "p", process("exec dd if=/dev/zero bs=64k"))
        .await
        .unwrap();
    host.close_output("c", "p", STDOUT).await.unwrap();
    assert_eq!(host.wait("c", "p").await.unwrap(), 128 + 13);
}

#[tokio::test]
async fn further_descriptors_are_pipes_and_sockets() {
    use proto::stdio::Kind;
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("sleep 100")).await;
    let stdio = Stdio {
        stdout: true,
        further: [Kind::Input, Kind::Output, Kind::Socket, Kind::Null]
            .map(Into::into)
            .to_vec(),
        ..Stdio::default()
    };
    let script = "cat <&3 >&4; cat <&5 >&5; cat <&6; echo lost >&6; exec 4>&- 5>&-; ls /proc/self/fd | wc -l";
    host.exec_with("c", "p", process(script), stdio).await.unwrap();
    for (number, text) in [(3, "through a pipe"), (5, "through a socket")] {
        let chunk = InputChunk {
            container_id: "c".to_owned(),
            process_id: "p".to_owned(),
            data: text.into(),
            descriptor: number,
        };
        let chunks = futures_util::stream::iter([chunk]);
        assert_eq!(host.write_stream(Box::pin(chunks)).await.unwrap(), text.len() as u64);
    }
    assert_eq!(host.read("c", "p", 4).await.unwrap(), b"through a pipe");
    assert_eq!(host.read("c", "p", 5).await.unwrap(), b"through a socket");
    // 0, 1, 2, 3, 6 and the one that ls reads: nothing else has come along.
    assert_eq!(host.read("c", "p", STDOUT).await.unwrap(), b"6\n");
    assert_eq!(host.wait("c", "p").await.unwrap(), 0);
    for number in [3, 6, 7] {
        assert_eq!(
            host.read("c", "p", number).await.unwrap_err().code(),
            Code::FailedPrecondition
        );
    }
}

#[tokio::test]
async fn a_terminal_is_read_written_and_resized() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("sleep 100")).await;
    let stdio = Stdio {
        rows: 11,
        columns: 33,
        ..Stdio::default()
    };
    host.exec_with(
        "c",
        "t",
        terminal("stty size; read x; stty size; echo got $x; exit 5"),
        stdio,
    )
    .await
    .unwrap();
    let mut output = host.output("c", "t", STDOUT).await.unwrap();
    assert_eq!(
        &output.message().await.unwrap().expect("a chunk").data[..],
        b"11 33\r\n"
    );
    host.resize("c", "t", 44, 55).await.unwrap();
    assert_eq!(host.write("c", "t", b"hello\n".to_vec()).await.unwrap(), 6);
    let mut rest = Vec::new();
    while let Some(chunk) = output.message().await.unwrap() {
        rest.extend_from_slice(&chunk.data);
    }
    assert_eq!(String::from_utf8(rest).unwrap(), "hello\r\n44 55\r\ngot hello\r\n");
    assert_eq!(host.wait("c", "t").await.unwrap(), 5);
    assert_eq!(
        host.read("c", "t", STDERR).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn signals_reach_one_process_or_all() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("trap 'exit 9' TERM; while :; do sleep 0.1; done"))
        .await;
    for (id, signal) in [("term", 15), ("real-time", 40)] {
        host.exec("c", id, process("exec sleep 100")).await.unwrap();
        host.signal("c", id, signal).await.unwrap();
        assert_eq!(host.wait("c", id).await.unwrap(), 128 + signal);
        assert_eq!(
            host.signal("c", id, signal).await.unwrap_err().code(),
            Code::FailedPrecondition
        );
    }
    host.exec("c", "other", process("exec sleep 100")).await.unwrap();
    host.signal_all("c", 15).await.unwrap();
    assert_eq!(host.wait("c", "other").await.unwrap(), 143);
    assert_eq!(host.wait("c", "init").await.unwrap(), 9);
}

#[tokio::test]
async fn a_paused_container_stands_still() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("trap 'exit 9' TERM; while :; do sleep 0.01; done"))
        .await;
    host.pause("c").await.unwrap();
    host.pause("c").await.expect("what is paused stays so");
    host.signal("c", "init", 15).await.unwrap();
    let refused = host.exec("c", "late", process("true")).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message().contains("paused")),
        (Code::FailedPrecondition, true)
    );
    let still = tokio::time::timeout(Duration::from_millis(300), host.wait("c", "init")).await;
    assert!(still.is_err(), "the signal took effect: {still:?}");
    host.resume("c").await.unwrap();
    assert_eq!(host.wait("c", "init").await.unwrap(), 9);
    assert_eq!(host.pause("c").await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_paused_container_can_be_killed() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("exec sleep 100")).await;
    host.pause("c").await.unwrap();
    host.signal("c", "init", 9).await.unwrap();
    assert_eq!(host.wait("c", "init").await.unwrap(), 137);
    host.delete("c").await.unwrap();
}

#[tokio::test]
async fn limits_that_cannot_be_are_refused() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("exec sleep 100")).await;
    host.update("c", json!({"memory": {"swap": 5}})).await.unwrap_err();
    let refused = host.update("c", json!({"unified": {"../cgroup.procs": "1"}})).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    host.update("c", json!({"unified": {"cgroup.max.depth": "3"}}))
        .await
        .unwrap();
    let depth = std::fs::read_to_string(agent.cgroup("c").join("cgroup.max.depth")).unwrap();
    assert_eq!(depth, "3\n");
}

#[tokio::test]
async fn notifications_reach_the_host_until_the_init_ends() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.create_with("notified", process("true"), true).await.unwrap();
    let mut events = host.events("notified").await.unwrap();
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let path = "/run/vruntime/notify/notified/notify.sock";
    for message in [b"READY=1".to_vec(), vec![b'x'; 5000]] {
        socket.send_to(&message, path).unwrap();
        let event = events.message().await.unwrap().unwrap().event.unwrap();
        let proto::event::Event::Notification(received) = event else {
            panic!("{event:?}")
        };
        assert_eq!(received, message[..message.len().min(4096)]);
    }
    host.signal("notified", "init", 9).await.unwrap();
    assert_eq!(events.message().await.unwrap(), None);
    host.delete("notified").await.unwrap();
    assert!(!std::path::Path::new(path).exists());
}

#[tokio::test]
async fn the_processes_are_listed() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    let pid = host.run("c", process("exec sleep 100")).await;
    let lines = host.list("c").await.unwrap();
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!(
        (line.pid, line.uid, line.user.as_str(), line.command.as_str()),
        (pid, 0, "root", "sleep 100")
    );
    assert_eq!(line.terminal, "");
}

#[tokio::test]
async fn containers_survive_the_hosts_connection() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("dd if=/dev/zero bs=64k")).await;
    let mut output = host.output("c", "init", STDOUT).await.unwrap();
    output.message().await.unwrap().expect("a chunk");
    drop((host, output));

    let mut host = agent.connect().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    // The reader of the old connection gives the stream back when the agent has seen its end.
    let mut output = loop {
        match host.output("c", "init", STDOUT).await {
            Ok(output) => break output,
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition),
        }
        assert!(Instant::now() < deadline, "the stream is never given back");
        tokio::task::yield_now().await;
    };
    assert!(!output.message().await.unwrap().expect("a chunk").data.is_empty());
    host.signal("c", "init", 9).await.unwrap();
    assert_eq!(host.wait("c", "init").await.unwrap(), 137);
}

#[tokio::test]
async fn a_hundred_short_processes_lose_nothing() {
    let agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("sleep 1000")).await;
    for number in 0..100 {
        let id = format!("p{number}");
        host.exec("c", &id, process("dd if=/dev/zero bs=1000 count=1000 2>/dev/null"))
            .await
            .unwrap();
        assert_eq!(host.read("c", &id, STDOUT).await.unwrap().len(), 1_000_000);
        assert_eq!(host.wait("c", &id).await.unwrap(), 0);
        host.forget("c", &id).await.unwrap();
    }
}

#[tokio::test]
async fn the_shutdown_kills_answers_and_ends() {
    let mut agent = Agent::start().await;
    let mut host = agent.connect().await;
    host.run("c", process("trap '' TERM; while :; do sleep 100; done"))
        .await;
    host.shutdown().await.unwrap();
    assert!(agent.ended().await.success());
    let left = std::fs::read_to_string(agent.cgroup("c").join("cgroup.procs")).unwrap();
    assert_eq!(left, "");
}
