"""What the global flags said, handed to every command as click's context object."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vruntime.log import Log

if TYPE_CHECKING:
    from vruntime.settings import Settings

DEFAULT_ROOT = Path("/run/vruntime")


@dataclass(frozen=True)
class Globals:
    """The global flags, as runc has them, and the two of our own (`config`, `allow_emulation`)."""

    root: Path = DEFAULT_ROOT
    log: Path | None = None
    log_format: str = "text"
    debug: bool = False
    systemd_cgroup: bool = False
    rootless: str = "auto"
    config: Path | None = None
    allow_emulation: bool | None = None

    @cached_property
    def logger(self) -> Log:
        """Where messages go, as --log, --log-format and --debug say."""
        return Log(self.log, self.log_format, debug=self.debug)

    @cached_property
    def settings(self) -> Settings:
        """The administrator's settings, read once; raises SettingsError."""
        from vruntime import settings  # noqa: PLC0415  most commands need no settings

        return settings.load(self.config, allow_emulation=self.allow_emulation)
