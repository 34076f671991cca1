"""The features document (runtime-spec 1.2, features.md and features-linux.md)."""

from __future__ import annotations

from vruntime import __version__
from vruntime.oci import checks, support
from vruntime.oci.document import Json


def features() -> Json:
    """What this runtime recognises, whatever the host offers.

    The control groups are the host's. Of AppArmor and SELinux it says what is true inside the guest, where containers
    run.
    """
    return {
        "ociVersionMin": support.OCI_VERSION_MIN,
        "ociVersionMax": support.OCI_VERSION_MAX,
        "hooks": list(checks.HOOKS),
        "mountOptions": list(support.MOUNT_OPTIONS),
        "linux": {
            "namespaces": list(support.NAMESPACES),
            "capabilities": list(support.CAPABILITIES),
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": True,
                "systemdUser": False,
                "rdma": True,
            },
            "seccomp": {
                "enabled": True,
                "actions": list(support.SECCOMP_ACTIONS),
                "operators": list(support.SECCOMP_OPERATORS),
                "archs": list(support.SECCOMP_ARCHITECTURES),
                "knownFlags": list(support.SECCOMP_FLAGS),
                "supportedFlags": list(support.SECCOMP_FLAGS),
            },
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": not support.refuses("linux", "intelRdt")},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "false",
            "vruntime.version": __version__,
        },
        "potentiallyUnsafeConfigAnnotations": [],
    }
