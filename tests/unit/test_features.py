"""`vruntime features`: the document is true of what config.json may hold."""

import json
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from vruntime.commands.features import command
from vruntime.oci.checks import HOOKS
from vruntime.oci.config import load_config

MAPPING = [{"containerID": 0, "hostID": 1000, "size": 10}]


@pytest.fixture
def document():
    done = CliRunner().invoke(command, [], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.output)


def test_versions_are_accepted(document, bundle):
    for version in (document["ociVersionMin"], document["ociVersionMax"]):
        bundle.set("ociVersion", version)
        load_config(bundle.write())


def test_namespaces_are_accepted(document, bundle):
    kinds = document["linux"]["namespaces"]
    assert kinds == ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]
    bundle.set("linux.namespaces", [{"type": kind} for kind in kinds])
    for key in ("uidMappings", "gidMappings"):
        bundle.set(f"linux.{key}", MAPPING)
    load_config(bundle.write())


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_are_listed_and_accepted(document, bundle, kind):
    assert kind in document["hooks"]
    bundle.set(f"hooks.{kind}", [{"path": "/bin/true"}])
    load_config(bundle.write())


def test_mappings_of_mounts_are_accepted_where_they_are_enabled(document, bundle):
    assert document["linux"]["mountExtensions"]["idmap"]["enabled"]
    mount = {"destination": "/x", "source": "/tmp", "options": ["bind"], "uidMappings": MAPPING, "gidMappings": MAPPING}
    bundle.set("mounts.-", mount)
    assert load_config(bundle.write()).mounts[-1].id_mapping is not None


def test_mount_options_reach_the_guest(document, bundle):
    options = [option for option in document["mountOptions"] if option not in ("idmap", "ridmap")]
    mount = {"destination": "/x", "source": "/tmp"}
    bundle.set("mounts", [mount | {"options": ["bind", option]} for option in options])
    guest = json.loads(load_config(bundle.write()).for_guest("/rootfs", dict.fromkeys(range(len(options)), "/x")))
    assert [mount["options"][-1] for mount in guest["mounts"]] == options


def test_capabilities_are_known(document, bundle):
    bundle.set("process.capabilities.bounding", document["linux"]["capabilities"])
    assert load_config(bundle.write()).warnings == ()


def test_seccomp_is_accepted(document, bundle):
    seccomp = document["linux"]["seccomp"]
    rules = [
        {
            "names": ["uname"],
            "action": action,
            "args": [{"index": 0, "value": 1, "op": operator}],
        }
        for action in seccomp["actions"]
        for operator in seccomp["operators"]
    ]
    bundle.set(
        "linux.seccomp",
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": seccomp["archs"],
            "flags": seccomp["supportedFlags"],
            "syscalls": rules,
        },
    )
    load_config(bundle.write())


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed")
def test_the_shape_is_runcs(document):
    theirs = json.loads(subprocess.check_output(["runc", "features"]))
    assert set(theirs) <= set(document)
    assert set(theirs["linux"]) <= set(document["linux"])
    newer = {"idmap", "ridmap"}  # of runc 1.2
    assert [option for option in document["mountOptions"] if option not in newer] == theirs["mountOptions"]
    assert document["linux"]["capabilities"] == theirs["linux"]["capabilities"]
