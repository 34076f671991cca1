"""Debian's own software in a container: what people run, unchanged."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtimes import Bundles, Runtime

C_PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <sys/utsname.h>

static void *square(void *number) { *(int *)number *= *(int *)number; return NULL; }

int main(int argc, char **argv) {
    int number = argc + 4;
    pthread_t thread;
    struct utsname system;
    if (pthread_create(&thread, NULL, square, &number) || pthread_join(thread, NULL) || uname(&system)) return 1;
    printf("%s %d %s\n", argv[1], number, system.sysname);
    return 42;
}
"""

PYTHON_PROGRAM = """
import os, subprocess, threading
assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3
squares = []
threads = [threading.Thread(target=lambda n=n: squares.append(n * n)) for n in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(squares), os.uname().sysname)
"""


def test_debians_software_runs(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.debian("sleep", "1000")
    (bundle / "rootfs/root/program.c").write_text(C_PROGRAM)
    container_id = any_runtime.start(bundle)

    apt = any_runtime("exec", container_id, "apt-get", "--version")
    assert apt.stdout.startswith(b"apt 2.")
    python = any_runtime("exec", container_id, "python3", "-c", PYTHON_PROGRAM)
    assert python.stdout == b"285 Linux\n"

    build = "gcc -O2 -Wall -Werror -pthread -o /root/program /root/program.c"
    any_runtime("exec", container_id, "sh", "-c", build)
    program = any_runtime("exec", container_id, "/root/program", "built", check=False)
    assert (program.returncode, program.stdout) == (42, b"built 36 Linux\n")


def test_200_mb_on_the_rootfs_read_back_as_written(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.debian("sleep", "1000")
    data = os.urandom(200 * 10**6)
    digest = hashlib.sha256(data).hexdigest()
    (bundle / "rootfs/root/source").write_bytes(data)
    container_id = vruntime.start(bundle)
    # dd, not cp, which would leave the copying to the host.
    vruntime("exec", container_id, "dd", "if=/root/source", "of=/root/copy", "bs=1M", "conv=fsync")
    read_back = vruntime("exec", container_id, "sha256sum", "/root/copy")
    assert read_back.stdout.decode().split()[0] == digest
    with open(bundle / "rootfs/root/copy", "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
