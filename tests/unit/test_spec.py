"""`vruntime spec`: runc's file."""

import json
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from vruntime.commands.spec import command
from vruntime.errors import HostError, VruntimeError
from vruntime.oci.config import load_config


def spec(*arguments):
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed")
def test_the_file_is_runcs_but_for_the_version(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    subprocess.run(["runc", "spec", "-b", theirs], check=True)
    assert spec("--bundle", str(ours)).exit_code == 0
    expected = (theirs / "config.json").read_bytes()
    version = json.loads(expected)["ociVersion"]
    assert (ours / "config.json").read_bytes() == expected.replace(version.encode(), b"1.2.0", 1)


def test_the_file_is_accepted(tmp_path):
    (tmp_path / "rootfs").mkdir()
    spec("-b", str(tmp_path))
    assert load_config(tmp_path / "config.json").process.args == ("sh",)


def test_an_existing_file_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(VruntimeError, match=r"^File config\.json exists\. Remove it first$"):
        spec("-b", str(tmp_path))
    assert (tmp_path / "config.json").read_text() == "mine"


def test_a_dangling_symlink_is_no_way_out_of_the_bundle(tmp_path):
    (tmp_path / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VruntimeError):
        spec("-b", str(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


def test_a_bundle_that_does_not_exist(tmp_path):
    with pytest.raises(HostError, match=r"^chdir .*absent: no such file or directory$"):
        spec("-b", str(tmp_path / "absent"))


def test_arguments_are_refused():
    assert spec("x").exit_code != 0
