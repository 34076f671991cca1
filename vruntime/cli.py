"""The command line: runc's global flags, and the verbs, each imported when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from vruntime import __version__
from vruntime.container import OCI_VERSION
from vruntime.errors import VruntimeError
from vruntime.globals import DEFAULT_ROOT, Globals
from vruntime.log import Log
from vruntime.spawn import close_on_exec_from, leave, open_closed_streams

VERBS = (
    "check",
    "checkpoint",
    "create",
    "delete",
    "env",
    "events",
    "exec",
    "features",
    "image",
    "kill",
    "list",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "setup",
    "spec",
    "start",
    "state",
    "update",
)

# In runc's messages these two name themselves in front.
_PREFIXES = {"create": "vruntime create failed: ", "run": "vruntime run failed: ", "exec": "exec failed: "}

_VERSION = f"vruntime version {__version__}\nspec: {OCI_VERSION}"


class Verbs(click.Group):
    """The verbs, imported one at a time: `state` does not pay for what `create` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, for --help."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, from its module of the same name."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"vruntime.commands.{cmd_name}").command
        return command


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Run OCI containers, each in a virtual machine of its own with its own kernel. A drop-in for runc.",
)
@click.version_option(__version__, "-v", "--version", message=_VERSION)
@click.option("--debug", is_flag=True, help="Log how it goes.")
@click.option("--log", type=click.Path(path_type=Path), help="Log file [default: standard error].")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="Format of the log.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=DEFAULT_ROOT,
    show_default=True,
    help="Directory of the containers' state; best on a tmpfs.",
)
@click.option(
    "--systemd-cgroup",
    is_flag=True,
    help='Expect cgroupsPath to be of the form "slice:prefix:name".',
)
@click.option(
    "--rootless",
    type=click.Choice(["true", "false", "auto"]),
    default="auto",
    help="Whether a host that allows no control group will do [auto: in a user namespace].",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Settings file in place of /etc/vruntime/config.toml and its drop-ins.",
)
@click.option(
    "--allow-emulation/--no-allow-emulation",
    default=None,
    help="Allow a guest without hardware virtualisation: slow, and no security boundary.",
)
@click.pass_context
def main_group(ctx: click.Context, /, **flags: object) -> None:
    """Keeps the global flags for the verb."""
    ctx.obj = Globals(**flags)  # type: ignore[arg-type]


def main() -> NoReturn:
    """Entry of the program: runs a verb, tells an error in one line, and ends with the exit code."""
    open_closed_streams()
    close_on_exec_from(3)
    leave(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    context: click.Context | None = None
    try:
        context = main_group.make_context("vruntime", arguments)
        with context:
            return int(main_group.invoke(context) or 0)
    except VruntimeError as error:
        _log(context).error(_prefix(context) + str(error))
        return _failure_code(context, error)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        error.show()
        return 1
    except click.ClickException as error:
        _log(context).error(error.format_message())
        return 1
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        return 1


def _failure_code(context: click.Context | None, error: VruntimeError) -> int:
    """As runc, 1; of exec 255, which sets its own failures apart from a program's, or what a shell would give."""
    if context is None or context.invoked_subcommand != "exec":
        return VruntimeError.code
    return 255 if error.code == VruntimeError.code else error.code


def _prefix(context: click.Context | None) -> str:
    return _PREFIXES.get((context and context.invoked_subcommand) or "", "")


def _log(context: click.Context | None) -> Log:
    flags = context.obj if context is not None and isinstance(context.obj, Globals) else Globals()
    return flags.logger
