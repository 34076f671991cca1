"""Where a runtime is known not to show what a case expects: what it shows instead, and why.

A difference that no longer occurs fails its case, so that this list stays true. `scripts/conformance` writes it into
SPECIFICATION.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from resource import RLIMIT_NPROC, getrlimit
from typing import Any

HOST = "this host: "
"""How a reason begins that is the host's and not the runtime's."""

NOT_YET = "not yet: "
"""How a reason begins that is to go away."""


@dataclass(frozen=True)
class Difference:
    """What is seen in place of what a case expects, and the reason."""

    seen: Any
    why: str


def because(why: str, **seen: Any) -> dict[str, Difference]:
    """What several cases show for one reason; in their names `_` stands for `-`."""
    return {name.replace("_", "-"): Difference(value, why) for name, value in seen.items()}


def refused(why: str, text: str, *names: str) -> dict[str, Difference]:
    """Cases whose container cannot be made; `text` says how the runtime puts it."""
    return {name: Difference(f"refused: {text}" if text else "refused", why) for name in names}


_ALL_CPUS = ",".join(map(str, sorted(os.sched_getaffinity(0))))
_OTHER = "OTHER nice=0 priority=0 flags=0"

_LATER_THAN_RUNC = "runc 1.1 does not know the field, and so ignores it"
_LATER_THAN_CRUN = "crun 1.8.1 does not know the field, and so ignores it"
_NO_SYS_RESOURCE = HOST + "without CAP_SYS_RESOURCE no limit can be raised, and no OOM score lowered"
_INIT = "unable to start container process: error during container init: "
_RLIMIT = _INIT + "error setting rlimits for ready process: error setting rlimit type {}: operation not permitted"

_UNSCHEDULED = {
    "scheduler_batch": _OTHER,
    "scheduler_idle": _OTHER,
    "scheduler_fifo": _OTHER,
    "scheduler_rr": _OTHER,
    "scheduler_deadline": _OTHER,
    "ioprio_best_effort": "none 0",
    "ioprio_idle": "none 0",
    "ioprio_real_time": "none 0",
}


def _values(why: str, seen: str, *names: str) -> dict[str, Difference]:
    return {f"value-{name}": Difference(seen, why) for name in names}


RUNC = {
    **because(_LATER_THAN_RUNC, exec_cpu_affinity=_ALL_CPUS, bind_id_mapped="0:0"),
    **_values(
        _LATER_THAN_RUNC,
        "accepted",
        "scheduler-unknown",
        "scheduler-nice-too-high",
        "scheduler-priority-for-others",
        "scheduler-deadline-for-others",
        "ioprio-unknown",
        "personality-unknown",
        "mount-idmap-one-sided",
        "offsets-without-time",
    ),
    **_values(
        "runc does not mind",
        "accepted",
        "mount-bind-no-source",
        "mappings-without-user",
        "device-no-path",
        "device-rule-unknown-access",
        "masked-relative",
        "seccomp-no-default",
        "seccomp-rule-no-names",
        "rdt",
    ),
    **because(
        "runc's exec does not heed `umask`",
        exec_umask="0022",
        exec_process_file_user=["1000 1000 1000 1000", "100 100 100 100", "5 6", "0022"],
    ),
    **because("runc's exec keeps the container's score", exec_process_file_oom="500"),
    **because("runc 1.1 crashes", config_null="exit 2"),
    **because(
        _LATER_THAN_RUNC, **_UNSCHEDULED, personality_32="0", personality_32_machine="x86_64", domainname="(none)"
    ),
    **refused(
        "runc 1.1 does not know time namespaces",
        'namespace {"time" ""} does not exist',
        "time-namespace",
        "time-namespace-boottime",
        "time-namespace-plain",
    ),
    **refused(
        HOST + "cgroup v1 cannot take one device out of a wildcard",
        _INIT + "error setting cgroup config for procHooks process: unable to remove 'allow' exception: requested rule "
        "[{99 10 229} rwm] not supported by devices cgroupv1 (cannot punch hole in existing wildcard rule "
        "[{99 10 -1} rwm])",
        "rule-hole-in-a-wildcard",
    ),
    **because("runc 1.1 does not know the field, and so ignores it", cgroup_cpu_burst="0", cgroup_cpu_idle="0"),
    **refused(
        HOST + "cgroup v1, and its hierarchy hugetlb is not mounted",
        _INIT + "error setting cgroup config for procHooks process: cannot set hugetlb limit: container could not join "
        "or create cgroup",
        "cgroup-hugetlb",
    ),
    **refused(
        HOST + "cgroup v1, which has no unified hierarchy",
        "invalid configuration: cannot use unified on cgroup v1",
        "cgroup-unified-memory-high",
        "cgroup-unified-cpu-weight",
        "cgroup-unified-overrules",
    ),
    **refused(
        "runc 1.1 supports no flags of filters",
        "seccomp flags are not yet supported by runc",
        "seccomp-flag-log",
        "seccomp-flag-spec-allow",
        "seccomp-flag-tsync",
    ),
    **because("runc 1.1 does not give the root itself the propagation `shared`", root_propagation_shared="private"),
    **refused(_NO_SYS_RESOURCE, _RLIMIT.format(7), "rlimit-raised"),
    **refused(_NO_SYS_RESOURCE, _RLIMIT.format(8), "rlimit-unlimited"),
    **refused(_NO_SYS_RESOURCE, _RLIMIT.format(13), "rlimit-nice-raised"),
    **refused(_NO_SYS_RESOURCE, _RLIMIT.format(14), "rlimit-rtprio-raised"),
    **refused(
        _NO_SYS_RESOURCE,
        "unable to start container process: can't get final child's PID from pipe: EOF",
        "oom-score-lowered",
    ),
    **refused(
        "runc 1.1 hands the option on to the file system, which does not know it",
        _INIT + 'error mounting "tmpfs" to rootfs at "/tmpfs/defaults": mount tmpfs:/tmpfs/defaults'
        " (via /proc/self/fd/6), data: defaults: invalid argument",
        "tmpfs-defaults",
    ),
    **because(
        "runc 1.1 gives a tmpfs the mode of the directory that it covers even against its option",
        twice_the_same=["2", "d 1777 0:0"],
    ),
    **refused(
        "runc goes by the option `bind`, not by the type",
        _INIT + 'error mounting "source" to rootfs at "/bind/by-type": stat source: no such file or directory',
        "bind-by-type",
    ),
}

_CRUN_LISTS = ("id", "pid", "status", "bundle", "created", "owner")
_CRUN_EXIT = "crun has exit codes of its own"


_CRUN_HOOKS = ["prestart created", "createRuntime created", "createContainer created"]
_CRUN_HOOKS_AT_START = [*_CRUN_HOOKS, "poststart running", "startContainer starting"]
_CRUN_HOOKS_AT_DELETE = [*_CRUN_HOOKS, "poststart running", "poststop stopped", "startContainer starting"]


def _crun_hook(status: str, *, pid: bool = True, bundle: str = "BUNDLE") -> dict[str, Any]:
    return {"id": "ID", "status": status, "pid": pid, "bundle": bundle, "annotations": {"key": "value"}}


def _crun_state(status: str) -> dict[str, Any]:
    return {
        "id": "ID",
        "pid": 0 if status == "stopped" else "of a process",
        "status": status,
        "bundle": "BUNDLE",
        "rootfs": "rootfs",
        "created": "a time",
        "systemd-scope": "",
        "owner": "root",
        "annotations": {"com.example.key": "value"},
    }


CRUN = {
    **because(_LATER_THAN_CRUN, exec_cpu_affinity=_ALL_CPUS),
    **_values(
        _LATER_THAN_CRUN,
        "accepted",
        "scheduler-unknown",
        "scheduler-nice-too-high",
        "scheduler-priority-for-others",
        "scheduler-deadline-for-others",
        "ioprio-unknown",
        "offsets-without-time",
    ),
    **_values("crun wants a version that it knows", "refused", "no-version", "version-unknown"),
    **_values(
        "crun 1.8.1 cannot open the relative source of an id-mapped mount", "refused", "mount-idmap-without-namespace"
    ),
    **_values(
        "crun does not mind",
        "accepted",
        "args-missing",
        "cwd-relative",
        "env-without-value",
        "uid-beyond-range",
        "gid-no-number",
        "mount-tmpfs-on-proc",
        "mount-bind-on-proc",
        "mount-bind-in-proc",
        "namespace-twice",
        "no-mount-namespace",
        "mappings-without-user",
        "device-unknown-type",
        "pids-no-number",
        "cpu-shares-negative",
        "propagation-unknown",
        "masked-relative",
        "seccomp-unknown-flag",
        "seccomp-rule-no-names",
        "seccomp-notify-without-listener",
        "rdt",
    ),
    **because(
        "crun tells hooks other states than runc",
        hooks_order=[_CRUN_HOOKS, _CRUN_HOOKS_AT_START, _CRUN_HOOKS_AT_DELETE],
        hook_state_prestart=_crun_hook("created"),
        hook_state_create_runtime=_crun_hook("created"),
        hook_state_create_container=_crun_hook("created", pid=False),
        hook_state_start_container=_crun_hook("starting", pid=False, bundle="/"),
    ),
    **because("crun runs on when a poststart hook fails", hook_fails_poststart=["exit 0", ""]),
    **because(
        "crun gives the root as it is written, the owner's name, and a scope of systemd",
        state_created=_crun_state("created"),
        state_running=_crun_state("running"),
        state_paused=_crun_state("paused"),
        state_resumed=_crun_state("running"),
        state_stopped=_crun_state("stopped"),
    ),
    **because(
        "crun does not mind",
        resume_unpaused="exit 0: ",
        kill_unknown_signal="exit 0: ",
        pause_twice="exit 0: ",
        update_stopped="exit 0: ",
        root_a_link="exit 0",
        id_with_space="exit 0: ",
    ),
    **because(
        _CRUN_EXIT,
        exec_paused="exit 1",
        exec_stopped="exit 1",
        exec_unknown_id="exit 1",
        ps_unknown_id="exit 253",
        unknown_flag="exit 64",
        unknown_command="exit 1",
    ),
    **because(
        "crun has layouts of its own",
        list_table=["NAME PID STATUS BUNDLE PATH CREATED OWNER", "ID running BUNDLE root"],
        list_empty="exit 0: [\n\n]",
        list_json=[{key: value for key, value in _crun_state("running").items() if key in _CRUN_LISTS}],
        ps_table=[["PID"], [""]],
    ),
    **because(
        "crun's exec goes by its flags alone: of the container's process it takes the environment",
        exec_groups="",
        exec_cwd="/",
        exec_umask="0022",
        exec_rlimit=" ".join("unlimited" if limit < 0 else str(limit) for limit in getrlimit(RLIMIT_NPROC)),
        exec_oom_score_adj="0",
        exec_capabilities_added=["0000000000002001"] * 2,
        exec_capabilities_of_a_user=["0000000000000000", "0000000000002000"],
        exec_capability_unknown="0000000000000000",
        exec_process_file_oom="0",
    ),
    **because("crun's exec makes no session", exec_ids=["ppid=0", "leader=0"]),
    **because("crun sets HOME only for a user that the container knows", exec_user_unknown_home="unset"),
    **because("crun 1.8.1 has no such flag", exec_additional_gids="exit 64"),
    **because(
        _CRUN_EXIT,
        exec_no_program="exit 1",
        exec_user_name="exit 1",
        exec_process_file_missing="exit 1",
        update_unknown_flag="exit 64",
    ),
    **because("crun knows signals in capitals alone", kill_in_lower_case="exit 0, but nothing came"),
    **because("crun's update takes bytes, and no -1 for the number of processes", update_pids_unlimited="exit 1"),
    **because(
        "crun's update takes bytes, and no -1 for the number of processes",
        update_memory="exit 1",
        update_reservation="exit 1",
    ),
    **because("crun 1.8.1 has no such command", features_hooks="exit 1", features_mount_options="exit 1"),
    **because("crun 1.8.1 has no such command", features_no_such="exit 1"),
    **because(_LATER_THAN_CRUN, **_UNSCHEDULED),
    **refused(
        _NO_SYS_RESOURCE,
        "",
        "rlimit-raised",
        "rlimit-unlimited",
        "rlimit-nice-raised",
        "rlimit-rtprio-raised",
        "oom-score-lowered",
    ),
    **because(
        "crun 1.8.1 does not let a later option take back an earlier one",
        tmpfs_ro_rw="ro,relatime",
        tmpfs_nosuid_suid="rw,nosuid,relatime",
        tmpfs_nodev_dev="rw,nodev,relatime",
        tmpfs_noexec_exec="rw,noexec,relatime",
        bind_ro_rw="ro,relatime",
    ),
    **refused("crun 1.8.1 hands the option on to the file system, which does not know it", "", "tmpfs-nosymfollow"),
    **because("crun 1.8.1 does not know the option", bind_nosymfollow="rw,relatime", bind_nosymfollow_holds="ok"),
    **because("crun gives a tmpfs the mode 1777, whatever it covers", tmpfs_covers=["d 1777 0:0", ""]),
    **refused("crun takes the source as relative to where it is called, not to the bundle", "", "bind-by-type"),
    **because("crun makes directories with the mode 1755", bind_makes_directories=["d 1755 0:0", "d 1755 0:0"]),
    **because(
        "crun 1.8.1 makes the mounts private when all are made",
        propagation_shared="private",
        propagation_rshared="private",
        propagation_unbindable="private",
        propagation_bind_shared="private",
        propagation_bind_unbindable="private",
    ),
    **refused(
        "crun 1.8.1 does not know time namespaces",
        "",
        "time-namespace",
        "time-namespace-boottime",
        "time-namespace-plain",
    ),
    **because("crun makes the link whether or not the kernel has what it points to", device_link_core="/proc/kcore"),
    **because("crun does not allow net/tun by default", rule_tun_by_default=["ok", "EPERM"]),
    **because(HOST + "cgroup v1 cannot take one device out of a wildcard", rule_hole_in_a_wildcard=["ok", "ok"]),
    **because("crun restricts no device where no rule is given", rule_none_at_all=["ok", "ok"]),
    **refused("crun 1.8.1 knows no -1 for unlimited", "", "cgroup-cpu-unlimited", "cgroup-pids-unlimited"),
    **because("crun mounts cgroup v1 writable", cgroup_is_read_only="ok"),
    **because(_LATER_THAN_CRUN, cgroup_cpu_burst="0"),
    **refused(HOST + "the block I/O controller has no weights", "", "cgroup-io-weight"),
    **refused(HOST + "cgroup v1, and its hierarchy hugetlb is not mounted", "", "cgroup-hugetlb"),
    **refused(
        HOST + "cgroup v1, which has no unified hierarchy",
        "",
        "cgroup-unified-memory-high",
        "cgroup-unified-cpu-weight",
        "cgroup-unified-overrules",
    ),
    **because("crun names the keyring by the container alone", session_keyring="ID"),
    **because("crun sets HOME only for a user that the container knows", unknown_user_home="unset"),
}

_DEVICE = (
    'config.json cannot be used: linux.devices[0]: "{}" is a device of the host, which cannot be given to the guest '
    "(it has its own null, zero, full, random, urandom, tty, ptmx, net/tun, fuse)"
)
_NO_NAMESPACE = (
    "config.json cannot be used: linux.namespaces: no {} namespace is listed, and the host's cannot be shared"
)


_NO_PROGRAM = "unable to start container process: exec: "

_AT_CREATE = ["prestart creating", "createRuntime creating", "createContainer creating"]
_AT_START = [*_AT_CREATE, "poststart running", "startContainer created"]

VRUNTIME = {
    **because(
        "a caller can tell them apart from the program's own codes",
        exec_program_missing=f'exit 127: {_NO_PROGRAM}"none": executable file not found in $PATH',
        exec_program_missing_absolute=f'exit 127: {_NO_PROGRAM}"/none": stat /none: no such file or directory',
        exec_program_not_executable=f'exit 126: {_NO_PROGRAM}"/etc/passwd": permission denied',
        exec_program_a_directory="exit 126",
    ),
    **because(
        "usage errors have click's layout and exit code",
        list_unknown_format="exit 1: Error: Invalid value for '-f' / '--format': 'yaml' is not one of 'table', 'json'.",
        ps_unknown_format="exit 1: Error: Invalid value for '-f' / '--format': 'yaml' is not one of 'table', 'json'.",
        unknown_command="exit 1",
    ),
    **because(
        "an error says what to do",
        config_missing="exit 1: JSON specification file config.json not found (looked in BUNDLE; --bundle names "
        "another directory)",
    ),
    **because(
        "the specification has poststart after the start",
        hooks_order=[_AT_CREATE, _AT_START, [*_AT_START[:-1], "poststop stopped", _AT_START[-1]]],
    ),
    **_values("the specification wants a version", "refused", "no-version"),
    **_values("a version that is not known is not guessed at", "refused", "version-unknown"),
    **_values("an id is any number of 32 bits", "accepted", "uid-beyond-range"),
    **_values("the guest has neither; the machine is the wall", "accepted", "selinux-label", "apparmor-profile"),
    **refused("a device of the host is not in the guest", _DEVICE.format("/dev/loop"), "device-block"),
    **refused("a device of the host is not in the guest", _DEVICE.format("/dev/mem"), "device-of-the-host"),
    **because("a node in the shared root would be a device of the host", mknod_in_the_root="EPERM"),
    **because("each container has a cgroup namespace", cgroup_namespace_absent="at the root"),
    **because("the guest has a name of its own", uts_namespace_absent="vruntime", hostname_absent="vruntime"),
    **refused("the host's namespaces are not the guest's", _NO_NAMESPACE.format("network"), "network-namespace-absent"),
    **refused("the host's namespaces are not the guest's", _NO_NAMESPACE.format("ipc"), "ipc-namespace-absent"),
    **refused("the host's namespaces are not the guest's", _NO_NAMESPACE.format("pid"), "pid-namespace-absent"),
    **refused(
        "the host's namespaces are not the guest's",
        "network namespace /proc/self/ns/net is the host's, which a virtual machine cannot share"
        " (choose another network mode, and publish the ports that are wanted)",
        "network-namespace-by-path",
    ),
    **because("what is mounted below a read-only path is read-only too", readonly_with_a_mount_below=["EROFS"] * 2),
}

DIFFERENCES: Mapping[str, Mapping[str, Difference]] = {"runc": RUNC, "crun": CRUN, "vruntime": VRUNTIME}


def difference(runtime: str, name: str) -> Difference | None:
    """What is known of a case on a runtime, if it differs there."""
    return DIFFERENCES[runtime].get(name)
