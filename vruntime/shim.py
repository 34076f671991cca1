"""The host's stand-in for one process in a guest: its pid is the process's pid to the engine.

It lives exactly as long as the process does and exits with the same code. Signals sent to it are passed on; when it is
killed, so is the process in the guest, since the monitor sees its end of the link close. On a terminal it is the
session leader on the host's side of it, so that the kernel tells it of new window sizes.

Run as `python -I -S shim.py LINK_FD TERMINAL_FD|- [WORD]...`, with the standard library's lightest modules alone: there
is one of these for each process of each container. The words are the command line of the process that it stands for. It
shows them in place of its own: engines show their users what the host's ps(1) says of this pid.

The link is a stream of lines. To the monitor: `ready`, `signal N`, `resize ROWS COLUMNS`. From it: `exit CODE`.

Once it is ready, the container's files take the place of the host's in its mount namespace (see view.py). From then on
it opens no file, so that none of the guest's is taken for one of Python's: no import, and no traceback, which would
look for the source.
"""

import os
import select
import signal
import sys

KILLED = 128 + 9
NAME = "vruntime-shim"
# python -I -S shim.py LINK_FD TERMINAL_FD|-
OWN_WORDS = 6
# SIGKILL and SIGSTOP cannot be caught; 32 and 33 belong to libc; SIGCHLD is of no meaning to another process.
FORWARDED = tuple(
    number for number in range(1, 65) if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33)
)


def main() -> int:
    """Forwards until the monitor tells the exit code; its silence, when it dies, is the VM's death: 137."""
    link = int(sys.argv[1])
    terminal = None if sys.argv[2] == "-" else int(sys.argv[2])
    signals = catch_signals()
    show_as_the_process()
    if terminal is not None:
        take_terminal(terminal)
    tell(link, "ready")
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.register(signals, select.POLLIN)
    received = b""
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if signals in ready:
            for number in os.read(signals, 256):
                forward(link, number, terminal)
        if link in ready:
            part = hear(link)
            received += part
            line, end, _ = received.partition(b"\n")
            if end:
                return int(line.removeprefix(b"exit "))
            if not part:
                return KILLED


def catch_signals() -> int:
    """Catches what can be caught; each arrives as a byte on the descriptor given back."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in FORWARDED:
        signal.signal(number, lambda *_: None)
    return reader


def show_as_the_process() -> None:
    """Leaves of our command line what is the process's; ps(1) shows it, and with `comm` our own name."""
    with open("/proc/self/comm", "w") as comm:
        comm.write(NAME)
    with open("/proc/self/stat", "rb") as stat:
        begin, end = map(int, stat.read().rpartition(b")")[2].split()[45:47])  # arg_start, arg_end (proc(5))
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    *_, words = os.pread(memory, end - begin, begin).split(b"\0", OWN_WORDS)
    if words:
        os.pwrite(memory, words.ljust(end - begin, b"\0"), begin)
    os.close(memory)


def take_terminal(terminal: int) -> None:
    """Makes the terminal the controlling one of our session, so that SIGWINCH comes to us."""
    import fcntl  # noqa: PLC0415  only with a terminal
    import termios  # noqa: PLC0415

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def forward(link: int, number: int, terminal: int | None) -> None:
    """Passes a signal on; a change of the window's size as what it means."""
    if number == signal.SIGWINCH and terminal is not None:
        try:
            size = os.get_terminal_size(terminal)
        except OSError:  # its other side is gone
            return
        tell(link, f"resize {size.lines} {size.columns}")
    else:
        tell(link, f"signal {number}")


def tell(link: int, line: str) -> None:
    """Sends a line; a monitor that is gone shows at the next read."""
    try:  # noqa: SIM105  contextlib costs more than this whole program
        os.write(link, line.encode() + b"\n")
    except (BrokenPipeError, ConnectionResetError):
        pass


def hear(link: int) -> bytes:
    """What has come; nothing when the monitor is gone, whatever it has left unread."""
    try:
        return os.read(link, 256)
    except ConnectionResetError:
        return b""


if __name__ == "__main__":
    code = KILLED
    try:
        code = main()
    finally:
        os._exit(code)
