"""`vruntime setup`: makes the runtime known to an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from vruntime import engines
from vruntime.engines import change
from vruntime.engines.change import Change
from vruntime.engines.engine import LAUNCHER, Runtime


@click.command("setup", short_help="Make this runtime known to an engine.")
@click.argument("engine_name", metavar="ENGINE", type=click.Choice(engines.NAMES))
@click.option("--apply", "wish", flag_value="apply", help="Make the change.")
@click.option("--remove", "wish", flag_value="remove", help="Undo what --apply has done, and nothing else.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the change of --apply or --remove without making it.")
@click.option("--default", is_flag=True, help="Make it the engine's default runtime as well.")
@click.option("--name", default=Runtime.name, show_default=True, help="The runtime's name in the engine.")
@click.option("--path", default=LAUNCHER, show_default=True, help="The runtime's program.")
@click.option("--config", type=click.Path(path_type=Path), help="The engine's file [default: the one that it reads].")
def command(
    engine_name: str, wish: str | None, dry_run: bool, default: bool, name: str, path: str, config: Path | None
) -> None:
    """Make this runtime known to ENGINE: docker, podman, containerd or crio.

    The change is printed as a diff and, without --apply or --remove, not made. All else in the engine's file stays,
    byte for byte; where the engine is installed and refuses the result, the file stays as it was. It may be run again
    at any time. What to do next is told on standard error.
    """
    engine, runtime = engines.find(engine_name), Runtime(name, path, default)
    file = config or engine.file(name)
    removing = wish == "remove"
    planned = change.plan_removing(engine, file, name) if removing else change.plan_adding(engine, file, runtime)
    click.echo(planned.diff(), nl=False)
    if planned.empty:
        report = [f"{file}: nothing to change"]
    elif wish is None or dry_run:
        report = [f"{file}: not changed; --{wish or 'apply'} changes it"]
    else:
        planned.make()
        report = [f"{file}: {'changed' if planned.after is not None else 'removed'}{_by_whose_leave(planned)}"]
        report += list(_next_steps(planned, None if removing else runtime))
    click.echo("\n".join(report), err=True)


def _by_whose_leave(made: Change) -> str:
    if made.after is None:
        return ""
    engine = made.engine
    return (
        f", and {engine.title} accepts it" if engine.installed() else f"; {engine.program} is not installed to check it"
    )


def _next_steps(made: Change, runtime: Runtime | None) -> Iterator[str]:
    if made.engine.after:
        yield f"now: {made.engine.after}"
    if runtime is not None:
        yield from made.engine.use(runtime)
