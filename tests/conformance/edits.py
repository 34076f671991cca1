"""What a case changes in the config.json of `runc spec`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cases import Config
    from runtimes import Edit


def several(*edits: Edit) -> Edit:
    """One after the other."""

    def edit(config: Config) -> None:
        for each in edits:
            each(config)

    return edit


def top(**values: Any) -> Edit:
    """Sets members of config.json itself."""
    return lambda config: config.update(values)


def process(**values: Any) -> Edit:
    """Sets members of `process`."""
    return lambda config: config["process"].update(values)


def linux(**values: Any) -> Edit:
    """Sets members of `linux`."""
    return lambda config: config["linux"].update(values)


def resources(**values: Any) -> Edit:
    """Sets members of `linux.resources`."""
    return lambda config: config["linux"]["resources"].update(values)


def mounted(destination: str, type: str | None, source: str | None, *options: str, **more: Any) -> Edit:
    """Adds a mount."""
    mount = {"destination": destination, "type": type, "source": source, "options": list(options), **more}
    return lambda config: config["mounts"].append({key: value for key, value in mount.items() if value is not None})


def capable(*names: str) -> Edit:
    """Gives the process these capabilities too."""

    def edit(config: Config) -> None:
        for kind in ("bounding", "effective", "permitted"):
            given = config["process"]["capabilities"][kind]
            given += [f"CAP_{name}" for name in names if f"CAP_{name}" not in given]

    return edit


def namespaces(*added: str, without: tuple[str, ...] = ()) -> Edit:
    """Adds namespaces, and takes others away."""

    def edit(config: Config) -> None:
        kept = [entry for entry in config["linux"]["namespaces"] if entry["type"] not in (*without, *added)]
        config["linux"]["namespaces"] = [*kept, *({"type": kind} for kind in added)]

    return edit
