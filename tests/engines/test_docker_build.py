"""`docker build` with our runtime for each step."""

from __future__ import annotations

from pathlib import Path

from engines import Docker

DOCKERFILE = """
FROM busybox:test AS first
ARG GREETING=nothing
COPY source /source/
RUN echo "$GREETING" > /greeting && mkdir /made && id -u > /made/id
RUN ["/bin/sh", "-c", "uname -r > /kernel"]

FROM busybox:test
COPY --from=first --chown=1000:1000 /greeting /source/file /made/id /kernel /result/
RUN chmod 1777 /tmp
ENV PLACE=/result
WORKDIR /result
USER user
RUN id -un > /tmp/user && test ! -w /kernel
CMD ["sh", "-c", "cat $PLACE/greeting file id /tmp/user; stat -c %u file; pwd"]
"""


def build(docker: Docker, context: Path, dockerfile: str, *flags: str, check: bool = True):
    docker.busybox()
    (context / "Dockerfile").write_text(dockerfile)
    return docker("build", "--tag", "built:1", *flags, str(context), check=check, timeout=110)


def test_build(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("a file\n")
    built = build(docker, tmp_path, DOCKERFILE, "--build-arg", "GREETING=hello")
    assert "Successfully tagged built:1" in built.stdout
    assert docker("run", "--rm", "built:1").stdout == "hello\na file\n0\nuser\n1000\n/result\n"
    assert "vruntime" in docker("run", "--rm", "built:1", "cat", "kernel").stdout


def test_a_step_that_fails(docker: Docker, tmp_path: Path) -> None:
    failed = build(docker, tmp_path, "FROM busybox:test\nRUN echo to see; exit 7\n", check=False)
    assert failed.returncode == 7
    assert "to see" in failed.stdout
    assert "The command '/bin/sh -c echo to see; exit 7' returned a non-zero code: 7" in failed.stderr
