"""An image's config made a config.json, with what the command line says."""

import json
from pathlib import Path
from typing import Any

import pytest

from vruntime.errors import ImageError
from vruntime.image.conversion import (
    DEFAULT_PATH,
    Overrides,
    Own,
    check,
    command_line,
    convert,
    environment,
    image_annotations,
    user_text,
    volume_paths,
)
from vruntime.image.users import User
from vruntime.oci.config import load_config

NOTHING = Own({}, {})


def image(**config: Any) -> dict[str, Any]:
    return {"config": config}


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "overrides", "args"),
    [
        (["a"], ["b"], Overrides(), ["a", "b"]),
        (None, ["b"], Overrides(), ["b"]),
        (["a"], None, Overrides(), ["a"]),
        (["a"], ["b"], Overrides(args=("c", "d")), ["a", "c", "d"]),
        (["a"], ["b"], Overrides(entrypoint="e"), ["e"]),
        (["a"], ["b"], Overrides(entrypoint="e", args=("c",)), ["e", "c"]),
        (["a"], ["b"], Overrides(entrypoint="", args=("c",)), ["c"]),
    ],
)
def test_command_lines(
    entrypoint: list[str] | None, cmd: list[str] | None, overrides: Overrides, args: list[str]
) -> None:
    assert command_line(image(Entrypoint=entrypoint, Cmd=cmd), overrides) == args


@pytest.mark.parametrize("overrides", [Overrides(), Overrides(entrypoint="")])
def test_no_command_line(overrides: Overrides) -> None:
    with pytest.raises(ImageError, match="names no command"):
        command_line(image(Cmd=[]), overrides)


@pytest.mark.parametrize(
    ("env", "overrides", "values"),
    [
        ([], Overrides(), {"PATH": DEFAULT_PATH, "HOSTNAME": "h"}),
        (["PATH=/bin"], Overrides(), {"PATH": "/bin", "HOSTNAME": "h"}),
        (["A=1", "B=2"], Overrides(env=("A=3=4",)), {"PATH": DEFAULT_PATH, "HOSTNAME": "h", "A": "3=4", "B": "2"}),
        ([], Overrides(env=("A=", "FROM", "MISSING")), {"PATH": DEFAULT_PATH, "HOSTNAME": "h", "A": "", "FROM": "me"}),
        ([], Overrides(terminal=True), {"PATH": DEFAULT_PATH, "HOSTNAME": "h", "TERM": "xterm"}),
        (["TERM=x"], Overrides(terminal=True), {"PATH": DEFAULT_PATH, "HOSTNAME": "h", "TERM": "x"}),
    ],
)
def test_environments(env: list[str], overrides: Overrides, values: dict[str, str]) -> None:
    made = environment(image(Env=env), overrides, "h", {"FROM": "me", "OTHER": "secret"})
    assert made == [f"{name}={value}" for name, value in values.items()]


@pytest.mark.parametrize("entry", ["", "=", "=x"])
def test_an_environment_has_names(entry: str) -> None:
    with pytest.raises(ImageError, match="NAME=VALUE"):
        environment(image(), Overrides(env=(entry,)), "h", {})


@pytest.mark.parametrize(
    ("volumes", "paths"),
    [
        ({}, []),
        ({"/b/../c/": {}, "a": {}, "//c/d": {}, "/c": {}}, ["/a", "/c", "/c/d"]),
        ({"../../x": {}}, ["/x"]),
    ],
)
def test_volumes(volumes: dict[str, Any], paths: list[str]) -> None:
    assert volume_paths(image(Volumes=volumes)) == paths


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"Cmd": "sh"}, "config.Cmd is not an array of strings"),
        ({"Cmd": [1]}, "config.Cmd is not an array of strings"),
        ({"Entrypoint": {}}, "config.Entrypoint is not an array of strings"),
        ({"Cmd": ["a"], "Env": {"A": "B"}}, "config.Env is not an array of strings"),
        ({"Cmd": ["a"], "Labels": {"a": 1}}, "config.Labels is not an object of strings"),
        ({"Cmd": ["a"], "Labels": []}, "config.Labels is not an object of strings"),
        ({"Cmd": ["a"], "ExposedPorts": ["80"]}, "config.ExposedPorts is not an object"),
        ({"Cmd": ["a"], "Volumes": ["/a"]}, "config.Volumes is not an object"),
        ({"Cmd": ["a"], "Volumes": {"": {}}}, "volume / would hide the image"),
        ({"Cmd": ["a"], "Volumes": {f"/{number}": {} for number in range(65)}}, "65 volumes; at most 64"),
    ],
)
def test_configs_that_cannot_be_converted(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        check(image(**config), Overrides())


def test_annotations_are_those_of_the_conversion() -> None:
    config = {"Labels": {"a": "b"}, "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}, "53": {}}}
    made = image_annotations({"os": "linux", "architecture": "amd64", "author": "me", "config": config})
    prefix = "org.opencontainers.image."
    assert made == {
        "a": "b",
        f"{prefix}os": "linux",
        f"{prefix}architecture": "amd64",
        f"{prefix}author": "me",
        f"{prefix}stopSignal": "SIGINT",
        f"{prefix}exposedPorts": "53,80/tcp",
    }


def test_a_label_counts_for_more() -> None:
    key = "org.opencontainers.image.author"
    assert image_annotations({"author": "me", "config": {"Labels": {key: "you"}}})[key] == "you"


@pytest.mark.parametrize(
    ("user", "overrides", "text"),
    [("a:b", Overrides(), "a:b"), (None, Overrides(), ""), ("a", Overrides(user="c"), "c")],
)
def test_whose_user(user: str | None, overrides: Overrides, text: str) -> None:
    assert user_text(image(User=user), overrides) == text


@pytest.mark.parametrize(("uid", "has_any"), [(0, True), (1000, False)])
def test_capabilities_are_dockers(uid: int, has_any: bool) -> None:
    capabilities = convert(image(Cmd=["a"]), Overrides(), User(uid, 0), NOTHING, "id")["process"]["capabilities"]
    assert "CAP_SYS_ADMIN" not in capabilities["bounding"]
    assert len(capabilities["bounding"]) == 14
    assert bool(capabilities["effective"]) is bool(capabilities["permitted"]) is has_any
    assert "ambient" not in capabilities


@pytest.mark.parametrize(
    ("directory", "overrides", "cwd"),
    [
        (None, Overrides(), "/"),
        ("", Overrides(), "/"),
        ("work/", Overrides(), "/work"),
        ("/a/../../b", Overrides(), "/b"),
        ("/a", Overrides(workdir="/c"), "/c"),
    ],
)
def test_working_directories(directory: str | None, overrides: Overrides, cwd: str) -> None:
    converted = convert(image(Cmd=["a"], WorkingDir=directory), overrides, User(0, 0), NOTHING, "id")
    assert converted["process"]["cwd"] == cwd


def test_what_is_made_passes_every_check(tmp_path: Path) -> None:
    for name in ("rootfs", "volume"):
        (tmp_path / name).mkdir()
    own = Own({"/data": str(tmp_path / "volume")}, {})
    made = convert(image(Cmd=["a"], Volumes={"/data": {}}), Overrides(), User(1, 2, (3,)), own, "i" * 100)
    (tmp_path / "config.json").write_text(json.dumps(made))
    config = load_config(tmp_path / "config.json")
    assert config.hostname == "i" * 64
    assert config.warnings == ()
    assert [(mount.destination, mount.source) for mount in config.mounts if mount.is_bind] == [
        ("/data", str(tmp_path / "volume"))
    ]
    assert config.process.document["user"] == {"uid": 1, "gid": 2, "additionalGids": [3]}
