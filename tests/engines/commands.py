"""What engines' users do, and what comes of it under our runtime: each row names the tests that show it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What comes of a command."""

    WORKS = "works"
    DIFFERS = "differs"
    REFUSED = "refused"
    NOT_YET = "not yet"


@dataclass(frozen=True)
class Row:
    """A command, or flags of one."""

    command: str
    verdict: Verdict
    note: str
    tests: tuple[str, ...]
    """Functions of the engine's test modules, without `test_`."""


def works(command: str, tests: str, *, note: str = "") -> Row:
    """As with runc."""
    return Row(command, Verdict.WORKS, note, tuple(tests.split()))


def differs(command: str, note: str, tests: str) -> Row:
    """It works, but a user sees something else than with runc."""
    return Row(command, Verdict.DIFFERS, note, tuple(tests.split()))


def refused(command: str, note: str, tests: str) -> Row:
    """With a reason, which the note tells."""
    return Row(command, Verdict.REFUSED, note, tuple(tests.split()))


DOCKER = (
    works("run, -d, --rm, -i; exit codes 0 to 255", "exit_code standard_input_and_both_outputs"),
    works(
        "run of what is not there or cannot be executed: 127, 126, 125, and docker's words",
        "failure_is_said_as_with_runc",
    ),
    works(
        "run -it, window size, ^C, --detach-keys; attach",
        "size_and_interrupt_and_exit_code detach_and_attach detach_keys_of_the_users_choice attach_without_a_terminal",
    ),
    works(
        "run --user --group-add --workdir --env --env-file --hostname --entrypoint",
        "what_the_process_is entrypoint_and_env_file",
    ),
    works("run --init", "init_reaps_and_forwards"),
    works("50 containers started at once", "a_crowd_at_once"),
    works("run --read-only --tmpfs", "read_only_with_a_tmpfs"),
    works("run --volume, named volumes", "a_volume_is_kept_and_shared"),
    works(
        "run --cap-add --cap-drop, --security-opt no-new-privileges, seccomp=FILE, seccomp=unconfined",
        "status a_profile_of_system_calls the_default_profile",
    ),
    differs(
        "run --security-opt apparmor=unconfined",
        "of no effect: the guest has no AppArmor; the machine is the wall",
        "status",
    ),
    works(
        "run --device of fuse, net/tun, and what each container has, also under another name",
        "devices_that_the_guest_has",
        note="the guest's own",
    ),
    refused("run --device of any other", "a device of the host is not in the guest", "a_device_of_the_host_is_refused"),
    differs(
        "run --privileged",
        "privileged in the guest alone, with the guest's devices",
        "privileged_is_so_in_the_guest_alone",
    ),
    works(
        "run --cpus --cpu-shares --cpuset-cpus --memory --memory-swap --memory-reservation --pids-limit",
        "limit",
        note="`--cpus` and `--cpuset-cpus` give the guest as many CPUs, numbered from 0",
    ),
    works("run --shm-size --ulimit --oom-score-adj", "limit"),
    works("run --sysctl of a namespace: kernel.msgmax, net.ipv4.ip_forward", "limit"),
    differs(
        "run --oom-kill-disable",
        "of no effect, as with any runtime on cgroup v2, which the guest has",
        "a_disabled_oom_killer_is_the_hosts_alone",
    ),
    works("out of memory: 137, `OOMKilled`, event oom", "out_of_memory"),
    works(
        "run --restart on-failure:N, always",
        "restart_on_failure restart_after_the_machine_was_killed a_restarted_container_has_its_network_again",
    ),
    works("run --health-cmd, HEALTHCHECK", "health"),
    works(
        "exec, -i, -it, -d, -u, -e, -w, --privileged; its errors",
        "flags standard_input detached exec_on_a_terminal failures_are_said_as_with_runc "
        "in_a_paused_and_a_stopped_container",
    ),
    works("logs, -f, --since, --until, --tail", "logs_follow logs_since no_byte_of_a_short_life_is_lost"),
    works(
        "stop, --stop-signal, --time", "stop_asks_first stop_with_the_images_signal stop_kills_when_the_time_is_over"
    ),
    works(
        "kill, -s; wait; signals of the client",
        "kill_with_a_signal_and_wait exit_code_of_a_signal signals_of_the_client_are_passed_on",
    ),
    works(
        "create, start, start -a, restart, rename", "a_stopped_container_starts_again_with_its_files rename_and_inspect"
    ),
    works("pause, unpause", "pause"),
    differs(
        "top",
        "shows init and what `exec` runs, not their children; with pids, user and times of their shims",
        "top_shows_what_was_asked_to_run top_shows_nothing_of_the_host",
    ),
    differs("stats", "memory, CPU and pids are those of the whole machine on the host", "stats"),
    works("update --memory --memory-swap --cpus --pids-limit --restart", "update update_of_the_restart_policy"),
    refused(
        "update --memory above what the machine was made with",
        "the memory of a machine cannot grow",
        "update_beyond_the_machine",
    ),
    works("cp both ways, running and stopped", "copying"),
    works("diff, commit, export", "diff_commit_and_export"),
    works("events; inspect: Pid, ExitCode, OOMKilled, Error", "events rename_and_inspect the_error_of_a_failed_start"),
    works("build (without BuildKit)", "build a_step_that_fails", note="the runtime is the daemon's default-runtime"),
    works("docker-compose up, ps, logs, exec, --scale, down; depends_on, volumes, names of services", "project"),
    works("network, the default bridge, run --publish", "the_default_bridge a_published_port_of_datagrams"),
    works("network create, names of containers and of the world", "names_on_a_network names_of_the_world"),
    works("network connect, disconnect, of a running container", "connect_and_disconnect_a_running_container"),
    works(
        "run --ip, --ip6, --network of the drivers bridge and macvlan",
        "an_address_of_choice_and_ipv6 a_macvlan_network",
    ),
    works(
        "run --network container:NAME",
        "the_network_of_another_container",
        note="in the machine of that container",
    ),
    works("run --network none", "no_network"),
    refused("run --network host", "the host's network is not the guest's", "the_network_of_the_host_is_refused"),
    works("dockerd restarted (live-restore)", "containers_survive_their_daemon"),
)

PODMAN = (
    works("run, -d, --rm, -i; exit codes 0 to 255", "exit_code_and_streams"),
    works("run of what is not there or cannot be executed: 127, 126, 125", "failures"),
    works(
        "run --init --read-only --tmpfs --cap-add --cap-drop --security-opt seccomp=… --ulimit --sysctl --volume",
        "what_a_container_is_given",
    ),
    works("run --memory --cpus --pids-limit", "what_a_container_is_given"),
    works("secret, run --secret", "a_secret"),
    differs(
        "run --privileged",
        "privileged in the guest alone, with the guest's devices",
        "privileged_is_so_in_the_guest_alone",
    ),
    refused("run --network host, --device of the host", "neither is in the guest", "failures"),
    works("exec, -i, -d; exit codes", "exec"),
    works("logs, -f; attach", "logs_and_attach following_what_a_container_says"),
    works("stop, kill, wait, events, start", "stop_kill_wait_and_events"),
    works("run --restart on-failure:N", "restart_on_failure"),
    works("run --health-cmd, healthcheck run", "a_health_check"),
    works("run --sdnotify conmon, container", "ready_as_a_container_says"),
    works("run -it, exec -it; window size", "run_and_exec_on_a_terminal"),
    works("run --preserve-fds of a pipe", "preserved_descriptors"),
    works("ps, stats, diff", "looking_at_a_container", note="figures are those of the whole machine on the host"),
    differs(
        "top",
        "shows nothing; with options of ps(1), as in `top CONTAINER -ef`, the container's own ps is run",
        "looking_at_a_container",
    ),
    works("pause, unpause, update, rename", "changing_a_container"),
    works("cp both ways", "copying_changes_nothing_of_the_host", note="not to what is mounted in the guest alone"),
    works("commit, export", "commit_and_export"),
    works("build, by buildah", "build"),
    works(
        "network create, connect, disconnect; names; run --publish; --network none",
        "networks",
    ),
    works(
        "pod create --publish, start, stop, pause, kill, restart, stats, rm; run --pod",
        "a_pod_has_one_network_and_name life_of_a_pod one_container_of_a_pod_is_restarted",
        note="one machine for a pod: its memory is that of the infra container's limit, or vm.memory",
    ),
    works("pod create --share pid", "a_shared_process_tree"),
    works("run --network container:…, with --pid and --ipc container:…", "joined_to_a_container"),
    refused(
        "run --pid or --ipc container:… with a network of its own",
        "a machine has one network",
        "joined_to_a_container",
    ),
    works("kube play, kube down: ConfigMap, hostPath, emptyDir", "kube_play"),
    works("generate systemd", "generated_units"),
    refused("container checkpoint", "the processes are out of CRIU's reach", "checkpoint_is_refused"),
)

CONTAINERD = (
    works("run, --rm, -d; exit codes and errors", "exit_codes_and_failures"),
    works("run --read-only --memory-limit --mount --device of the guest's", "what_a_container_is_given"),
    differs("run --privileged", "privileged in the guest alone", "privileged_is_so_in_the_guest_alone"),
    refused("run --net-host", "the host's network is not the guest's", "exit_codes_and_failures"),
    works("run --cni", "a_network_by_cni", note="one interface"),
    works("tasks kill, pause, resume, delete, list", "life_of_a_task"),
    works("tasks exec; exit codes and errors", "exec"),
    works("tasks metrics, ps", "looking_at_a_task", note="figures are those of the whole machine on the host"),
    works("events: exit, oom", "events_of_an_end"),
    refused("tasks checkpoint", "the processes are out of CRIU's reach", "looking_at_a_task"),
)

ENGINES = {"Docker": DOCKER, "Podman": PODMAN, "containerd": CONTAINERD}
