"""`vruntime setup`: what it makes of an engine's file, and that it can be undone byte for byte."""

from __future__ import annotations

import json
import tomllib

import pytest

from vruntime import engines
from vruntime.engines.engine import Runtime
from vruntime.errors import EngineError

PATH = "/usr/local/bin/vruntime"
OURS = Runtime()
DEFAULT = Runtime(default=True)

CRI = 'plugins."io.containerd.grpc.v1.cri".containerd'

DOCKER = {
    "several lines": '{\n  "dns": ["1.1.1.1", "8.8.8.8"],\n  "debug" : true\n}\n',
    "tabs": '{\n\t"debug": true\n}',
    "one line": '{"debug": true, "log-opts": {"max-size": "1m"}}\n',
    "empty": "{}\n",
    "empty, over lines": "{\n\n}\n",
    "other runtimes": '{\n    "runtimes": {\n        "runsc": {"path": "/usr/bin/runsc"}\n    },\n    "debug": 1\n}\n',
    "no runtimes yet": '{"runtimes": {}, "debug": true}',
    "braces and commas in strings": '{\n    "label{s}": ["a,b", "}\\"{"],\n    "x": {"y": [1, {"z": null}]}\n}\n',
    "CRLF": '{\r\n  "debug": true\r\n}\r\n',
    "not ASCII": '{\n  "labels": ["größe=1", "\\u00e9"]\n}\n',
}

CONTAINERD = {
    "version alone": "version = 2\n",
    "no end of line": "version = 2",
    "version 3": 'version = 3\n\n[plugins."io.containerd.cri.v1.runtime"]\n  enable_selinux = false\n',
    "comments": """# ours, do not edit
version = 2 # two

[grpc] # here
  address = "/run/x.sock" # there


# the end
""",
    "Debian's": """version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
""",
    "the default's table": f"""version = 2
[{CRI}]
  # the one for all pods
  default_runtime_name = "runc" # for now

  snapshotter = "overlayfs"

[{CRI}.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{CRI}.runtimes.runc.options]
  SystemdCgroup = true
""",
    "a table without its key, at the end": f"version = 2\n[{CRI}]",
    "a key to replace, at the end": f"version = 2\n[{CRI}]\ndefault_runtime_name = 'runc'",
    "a table with comments": f"version = 2\n[{CRI}]\n# nothing here\n\n# yet\n[debug]\nlevel = 'info'\n",
    "strings and arrays over lines": """version = 2
imports = [
  "a", # [grpc]
  "b",
]
root = '''
[grpc]
'''
[grpc]
x = 1
""",
    "a hand-written entry": f'version = 2\n[{CRI}.runtimes.vruntime]\n  runtime_type = "io.containerd.runc.v1" # old\n',
    "an array of tables": "version = 2\n[[x]]\na = 1\n[[x]]\na = 2\n",
    "CRLF": f'version = 2\r\n\r\n[{CRI}]\r\ndefault_runtime_name = "runc"\r\n',
}

PODMAN = {
    "other keys": """[containers]
default_ulimits = [
  "nofile=1024:2048",
]

[engine]
# no systemd here
cgroup_manager = "cgroupfs"

[network]
""",
    "the same keys": """[engine]
runtime_supports_json = [
  "crun",
  "own" # mine
]
runtime = "crun"
[engine.runtimes]
crun = ["/usr/bin/crun"]
""",
    "empty": "",
    "a blank line": "\n",
    "comments alone": "# nothing\n#[engine]\n",
}

CRIO = {
    "other keys": """[crio.runtime]
log_level = "info"
default_runtime = "runc"

[crio.runtime.runtimes.runc]
runtime_path = "/usr/bin/runc"
""",
    "another section": "[crio.image]\npause_image = 'x'",
}


FILES = [
    pytest.param(engine, text, id=f"{engine}-{name}")
    for engine, texts in (("docker", DOCKER), ("containerd", CONTAINERD), ("podman", PODMAN), ("crio", CRIO))
    for name, text in texts.items()
]
NO_FILES = [pytest.param(name, None, id=f"{name}-no file") for name in engines.NAMES]


def parsed(engine: str, text: str) -> dict:
    return json.loads(text) if engine == "docker" else tomllib.loads(text)


def contains(document, part) -> bool:
    """Whether everything in `part` is in `document`, at the same place."""
    if isinstance(part, dict):
        return isinstance(document, dict) and all(
            key in document and contains(document[key], part[key]) for key in part
        )
    return document == part


@pytest.mark.parametrize(("engine", "text"), FILES + NO_FILES)
@pytest.mark.parametrize("runtime", [OURS, DEFAULT, Runtime("my.vm-2", "/opt/über/vruntime")], ids=lambda r: r.name)
def test_removing_restores_every_byte(engine, text, runtime):
    added = engines.find(engine).add(text, runtime)
    assert added != text
    assert engines.find(engine).remove(added, runtime.name) == text


@pytest.mark.parametrize(("engine", "text"), FILES + NO_FILES)
@pytest.mark.parametrize("runtime", [OURS, DEFAULT], ids=["plain", "default"])
def test_adding_again_changes_nothing(engine, text, runtime):
    find = engines.find(engine)
    added = find.add(text, runtime)
    assert find.add(added, runtime) == added
    assert find.add(added, OURS) == added, "what was the default stays it"


@pytest.mark.parametrize(("engine", "text"), FILES)
def test_every_byte_of_the_file_is_still_there_in_its_order(engine, text):
    added = iter(engines.find(engine).add(text, OURS))
    assert all(character in added for character in text)


@pytest.mark.parametrize(("engine", "text"), FILES + NO_FILES)
def test_a_new_path_replaces_the_old_one(engine, text):
    find = engines.find(engine)
    old = find.add(text, Runtime(path="/old/place"))
    new = find.add(old, OURS)
    assert "/old/place" not in new
    assert parsed(engine, new) == parsed(engine, find.add(text, OURS))
    assert find.remove(new, "vruntime") == text


@pytest.mark.parametrize(("engine", "text"), FILES)
def test_two_names_do_not_touch_each_other(engine, text):
    find, other = engines.find(engine), Runtime("other", "/other")
    if engine == "podman":  # one key lists both
        with pytest.raises(EngineError, match=r"another name .*a file of its own"):
            find.add(find.add(text, OURS), other)
        return
    both = find.add(find.add(text, OURS), other)
    assert find.remove(find.remove(both, "other"), "vruntime") == text


@pytest.mark.parametrize(
    ("engine", "wanted", "default"),
    [
        ("docker", {"runtimes": {"vruntime": {"path": PATH}}}, {"default-runtime": "vruntime"}),
        (
            "podman",
            {
                "engine": {
                    "runtimes": {"vruntime": [PATH]},
                    "runtime_supports_json": ["crun", "crun-vm", "kata", "krun", "runc", "runsc", "youki", "vruntime"],
                }
            },
            {"engine": {"runtime": "vruntime"}},
        ),
        (
            "containerd",
            {
                "version": 2,
                "plugins": {
                    "io.containerd.grpc.v1.cri": {
                        "containerd": {
                            "runtimes": {
                                "runc": {"runtime_type": "io.containerd.runc.v2"},
                                "vruntime": {
                                    "runtime_type": "io.containerd.runc.v2",
                                    "privileged_without_host_devices": True,
                                    "options": {"BinaryName": PATH},
                                },
                            }
                        }
                    }
                },
            },
            {"plugins": {"io.containerd.grpc.v1.cri": {"containerd": {"default_runtime_name": "vruntime"}}}},
        ),
        (
            "crio",
            {
                "crio": {
                    "runtime": {
                        "runtimes": {
                            "vruntime": {
                                "runtime_path": PATH,
                                "runtime_type": "oci",
                                "runtime_root": "/run/vruntime",
                                "privileged_without_host_devices": True,
                            }
                        }
                    }
                }
            },
            {"crio": {"runtime": {"default_runtime": "vruntime"}}},
        ),
    ],
)
def test_what_a_new_file_holds(engine, wanted, default):
    assert parsed(engine, engines.find(engine).add(None, OURS)) == wanted
    as_default = parsed(engine, engines.find(engine).add(None, DEFAULT))
    assert contains(as_default, wanted)
    assert contains(as_default, default)


def test_containerd_of_version_3_has_another_plugin():
    plugins = tomllib.loads(engines.find("containerd").add(CONTAINERD["version 3"], OURS))["plugins"]
    options = plugins["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["vruntime"]["options"]
    assert options == {"BinaryName": PATH}
    assert "io.containerd.grpc.v1.cri" not in plugins


def test_the_cgroup_driver_is_that_of_runc():
    plugins = tomllib.loads(engines.find("containerd").add(CONTAINERD["the default's table"], OURS))["plugins"]
    options = plugins["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]["vruntime"]["options"]
    assert options == {"BinaryName": PATH, "SystemdCgroup": True}


def test_containerd_keeps_runc_beside_us():
    """A table of runtimes replaces what containerd has without any, and CRI does not start without its default."""
    containerd = engines.find("containerd")
    both = containerd.add(containerd.add("version = 2\n", OURS), Runtime("other"))
    with pytest.raises(EngineError, match=r"other there would be left without runc .*first"):
        containerd.remove(both, "vruntime")


def test_podman_goes_on_to_tell_errors_of_other_runtimes():
    engine = tomllib.loads(engines.find("podman").add(PODMAN["the same keys"], OURS))["engine"]
    assert engine["runtime_supports_json"] == ["crun", "own", "vruntime"]
    assert engine["runtimes"] == {"crun": ["/usr/bin/crun"], "vruntime": [PATH]}


def test_what_was_added_after_us_stays():
    docker = engines.find("docker")
    added = json.loads(docker.add(None, DEFAULT))
    added["runtimes"]["other"] = {"path": "/other"}
    added["debug"] = True
    assert json.loads(docker.remove(json.dumps(added), "vruntime")) == {
        "runtimes": {"other": {"path": "/other"}},
        "debug": True,
    }
    podman = engines.find("podman")
    assert podman.remove(podman.add(None, OURS) + "\n[network]\n", "vruntime") == "\n[network]\n"


def test_arguments_of_an_entry_stay():
    text = '{"runtimes": {"vruntime": {"path": "/old", "runtimeArgs": ["--debug"]}}}'
    assert json.loads(engines.find("docker").add(text, OURS)) == {
        "runtimes": {"vruntime": {"path": PATH, "runtimeArgs": ["--debug"]}}
    }
    with pytest.raises(EngineError, match=r"runtimes\.vruntime has more than set-up puts there: runtimeArgs"):
        engines.find("docker").remove(text, "vruntime")


def test_a_hand_written_entry_that_says_the_same_stays():
    text = f'{{"runtimes": {{"vruntime": {{"path": "{PATH}"}}}}}}'
    assert engines.find("docker").add(text, OURS) == text
    text = f'[engine]\nruntime_supports_json=["vruntime"]\nruntimes.vruntime=["{PATH}"]\n'
    assert engines.find("podman").add(text, OURS) == text


def test_without_us_there_is_nothing_to_remove():
    for engine, text in (*(parameter.values for parameter in FILES + NO_FILES), ("containerd", "root = '/x'\n")):
        assert engines.find(engine).remove(text, "vruntime") == text


@pytest.mark.parametrize(
    ("engine", "text", "message"),
    [
        ("docker", '{"a": 1,}', "not valid JSON: .*line 1 column 9"),
        ("docker", '{"a": 1, "b": {"c": 1, "c": 2}}', "'c' occurs twice"),
        ("docker", "[]", "not a JSON object"),
        ("docker", '{"runtimes": []}', "runtimes is not an object"),
        ("docker", '{"runtimes": {"vruntime": 5}}', "runtimes.vruntime is not an object"),
        ("docker", '{"default-runtime": "nvidia"}', "'nvidia' there .take that line out"),
        ("docker", "[" * 100_000, "not valid JSON"),
        ("containerd", "version = 2\n[grpc\n", "not valid TOML: .*line 2"),
        ("containerd", 'disabled_plugins = ["cri"]\n', "version is 1, not 2 or 3 .*config migrate"),
        ("containerd", "version = 4\n", "version is 4"),
        ("containerd", "version = [2]\n", "version is"),
        ("containerd", "version = 2\nplugins = 5\n", r"\[plugins\] is not a table"),
        ("containerd", "version = 2\nplugins = {}\n", "cannot change: .plugins"),
        ("podman", "[engine]\nruntimes = {crun = ['/x']}\n", r"cannot change: \[engine\], \[engine.runtimes\]"),
        ("podman", "# >>> vruntime setup (vruntime)\n", "lost its other half"),
        ("crio", "[crio]\nruntime.log_level = 'info'\n", "cannot change"),
    ],
)
def test_refusals(engine, text, message):
    with pytest.raises(EngineError, match=message):
        engines.find(engine).add(text, DEFAULT)


@pytest.mark.parametrize("name", ["", "runc", "a b", "../x", "-x", "x" * 64, "a\nb", "ü"])
def test_names_that_are_none(name):
    with pytest.raises(EngineError):
        Runtime(name)
