"""What a conformance case is: a row that names what it changes and what must be seen; groups share one container."""

from __future__ import annotations

import json
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from differences import difference
from runtimes import DEADLINE, Bundles, Edit, Runtime

PROBE = "/bin/probe"
FOREVER = ("sleep", "1000")
REFUSED = "refused"
"""What must be seen where each runtime has its own words for it."""

Config = dict[str, Any]
Shown = dict[str, Any]
"""What each row of a group showed, by its name; an exception where it could not be seen."""

_ERROR = re.compile(r'time="[^"]+" level=error msg=(".*")')
_PREFIX = re.compile(r"^(?:vruntime |runc )?(?:run|create|exec) failed: ")


def unchanged(config: Config) -> None:
    """Leaves the config as it is."""


@dataclass(frozen=True)
class Row:
    """One case: its name, which is unique, and what must be seen."""

    name: str
    expected: Any
    on_cgroup_v1: Any = field(default=None, kw_only=True)
    """What must be seen instead where the container's cgroups are of version 1, if that differs."""


@dataclass(frozen=True)
class Question(Row):
    """What a process finds inside: what the probe answers, made comparable by `read`."""

    ask: str | tuple[str, ...] = ()
    edit: Edit = unchanged
    read: Callable[..., Any] = lambda *answers: answers[0] if len(answers) == 1 else list(answers)

    @property
    def questions(self) -> tuple[str, ...]:
        """What the probe is asked."""
        return (self.ask,) if isinstance(self.ask, str) else self.ask


@dataclass(frozen=True)
class Call(Row):
    """What a caller gets from the commands that `do` carries out."""

    do: Callable[[Caller], Any] = lambda caller: None


@dataclass
class Caller:
    """Where a runtime is called: with bundles of its own, in a directory that every user can enter."""

    name: str
    runtime: Runtime
    bundles: Bundles
    directory: Path
    probe: Path
    id: str = ""
    """The running container of a group that has one."""
    rootfs: Path = Path()
    """Its root filesystem."""

    def bundle(self, *args: str, edit: Edit = unchanged, terminal: bool = False) -> Path:
        """A bundle of busybox and the probe."""
        bundle = self.bundles.busybox(*args, edit=edit, terminal=terminal)
        (bundle / f"rootfs{PROBE}").hardlink_to(self.probe)
        return bundle

    def told(self, *arguments: str, **options: Any) -> str:
        """What a command comes to, as `exit 0: standard output` or `exit 1: the error`."""
        # Not pipes: a container that is created inherits its streams. Nor /dev/null: where root is mapped, a runtime
        # may give it to that user.
        with TemporaryFile() as nothing, TemporaryFile() as out, TemporaryFile() as err:
            command = self.runtime.command(*arguments)
            options = {"stdin": nothing, "timeout": DEADLINE} | options
            code = subprocess.run(command, stdout=out, stderr=err, **options).returncode
            out.seek(0), err.seek(0)
            result = subprocess.CompletedProcess(command, code, out.read(), err.read())
        text = self.plain(result.stdout.decode().strip() if result.returncode == 0 else said(result))
        return outcome(self.name, f"exit {result.returncode}: {text}")

    def ask(self, *arguments: str, flags: tuple[str, ...] = ()) -> Any:
        """What a process that `exec` starts with these flags answers to the questions."""
        result = self.runtime("exec", *flags, self.id, PROBE, "--ask", *arguments, input=b"", check=False)
        if result.returncode:
            return outcome(self.name, f"exit {result.returncode}: {self.plain(said(result))}")
        answers = answers_in(result.stdout)
        seen = [self.plain(answers[question]) for question in arguments]
        return seen[0] if len(seen) == 1 else seen

    def run(self, bundle: Path, *flags: str) -> str:
        """What `run` of a bundle comes to."""
        return self.told("run", "--bundle", str(bundle), *flags, self.runtime.new_id())

    def create(self, bundle: Path, *flags: str) -> str:
        """What `create` of a bundle comes to; the container is deleted at the end."""
        return self.told("create", "--bundle", str(bundle), *flags, self.runtime.new_id())

    def plain(self, text: str) -> str:
        """A text without what differs from run to run."""
        text = re.sub(rf"{self.directory}/bundle\d+", "BUNDLE", text).replace(str(self.runtime.root), "ROOT")
        return re.sub(r"test-[0-9a-f]{12}", "ID", text)


def outcome(runtime: str, text: str) -> str:
    """What a command comes to, without the text of an error where the runtime has its own wording."""
    return re.sub(r"^(exit [1-9]\d*|refused): .*", r"\1", text, flags=re.DOTALL) if runtime == "crun" else text


def said(result: subprocess.CompletedProcess[bytes]) -> str:
    """The error of a command that failed: its last line, without the log's dress and the command's name."""
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    line = lines[-1] if lines else result.stdout.decode(errors="replace").strip()
    if match := _ERROR.fullmatch(line):
        line = str(json.loads(match[1]))
    return _PREFIX.sub("", line)


class Group(ABC):
    """Rows that are seen together; what they change in config.json adds up."""

    def __init__(self, name: str, *rows: Any, edit: Edit = unchanged) -> None:
        self.name = name
        self.rows: Sequence[Any] = rows
        self._edit = edit

    @abstractmethod
    def look(self, caller: Caller) -> Shown:
        """Carries them out on one runtime."""


class Inside(Group):
    """Questions that one container answers; `prepare` adds to its bundle.

    What a runtime is known to refuse is asked in a container of its own.
    """

    def __init__(
        self,
        name: str,
        *rows: Question,
        edit: Edit = unchanged,
        prepare: Callable[[Path], None] | None = None,
        args: tuple[str, ...] = (PROBE,),
    ) -> None:
        super().__init__(name, *rows, edit=edit)
        self._prepare = prepare
        self._args = args

    def look(self, caller: Caller) -> Shown:
        apart = [row for row in self.rows if is_refused(difference(caller.name, row.name))]
        together = [row for row in self.rows if row not in apart]
        shown = self._ask(caller, together) if together else {}
        if any(map(is_refused, shown.values())):
            apart = list(self.rows)
        for row in apart:
            shown |= self._ask(caller, [row])
        return shown

    def _ask(self, caller: Caller, rows: Iterable[Question]) -> Shown:
        rows = list(rows)

        def edit(config: Config) -> None:
            self._edit(config)
            for row in rows:
                row.edit(config)

        bundle = caller.bundle(*self._args, edit=edit)
        questions = dict.fromkeys(question for row in rows for question in row.questions)
        (bundle / "rootfs/questions").write_text("\n".join(questions) + "\n")
        if self._prepare is not None:
            self._prepare(bundle)
        result = caller.runtime("run", "--bundle", str(bundle), caller.runtime.new_id(), input=b"", check=False)
        answers = {question: caller.plain(answer) for question, answer in answers_in(result.stdout).items()}
        if result.returncode or set(answers) != set(questions):
            refused = outcome(caller.name, f"refused: {caller.plain(said(result))}")
            return {row.name: REFUSED if row.expected == REFUSED else refused for row in rows}
        return {row.name: row.read(*(answers[question] for question in row.questions)) for row in rows}


def is_refused(shown: Any) -> bool:
    """Whether a row shows but that its container could not be made."""
    shown = getattr(shown, "seen", shown)
    return isinstance(shown, str) and shown.startswith("refused")


def answers_in(output: bytes) -> dict[str, str]:
    """The probe's answers, by question."""
    return dict(map(json.loads, re.findall(r'\["[^"].*"\]', output.decode(errors="surrogateescape"))))


class Alive(Group):
    """Calls on one container that runs while they are made."""

    def __init__(
        self,
        name: str,
        *rows: Call,
        edit: Edit = unchanged,
        prepare: Callable[[Path], None] | None = None,
        args: tuple[str, ...] = FOREVER,
    ) -> None:
        super().__init__(name, *rows, edit=edit)
        self._prepare = prepare
        self._args = args

    def look(self, caller: Caller) -> Shown:
        bundle = caller.bundle(*self._args, edit=self._edit)
        if self._prepare is not None:
            self._prepare(bundle)
        caller.rootfs = bundle / "rootfs"
        caller.id = caller.runtime.start(bundle)
        return {row.name: tried(row.do, caller) for row in self.rows}


class Apart(Group):
    """Calls that have nothing in common but their subject."""

    def look(self, caller: Caller) -> Shown:
        return {row.name: tried(row.do, caller) for row in self.rows}


def tried(do: Callable[[Caller], Any], caller: Caller) -> Any:
    """What it gives, or the exception that it raises: the other rows can still be seen."""
    try:
        return do(caller)
    except Exception as error:
        return error
