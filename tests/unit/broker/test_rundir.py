"""The runtime directory and its sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from outpass.broker.rundir import MINT, RuntimeDir
from outpass.errors import StartError


def test_it_is_made_for_us_alone_and_cleaned(tmp_path: Path) -> None:
    run = RuntimeDir(tmp_path / "run", remove=True)
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(run.write("ca.pem", b"x").stat().st_mode) == 0o600
    with run.bind(MINT, socket.SOCK_SEQPACKET):
        assert stat.S_IMODE((run.path / MINT).stat().st_mode) == 0o600
    run.clean()
    assert not run.path.exists()


def test_what_others_put_there_is_not_removed(tmp_path: Path) -> None:
    run = RuntimeDir(tmp_path / "run", remove=True)
    (run.path / "theirs").write_text("")
    run.clean()
    assert [p.name for p in run.path.iterdir()] == ["theirs"]


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    run = RuntimeDir(tmp_path / "run")
    run.write("ca.pem", b"old")
    with (run.path / "ca.pem").open("rb") as reader:
        run.write("ca.pem", b"new")
        assert reader.read() == b"old" and (run.path / "ca.pem").read_bytes() == b"new"
    run.clean()


def test_a_second_one_in_the_same_directory_is_refused_and_the_first_not_disturbed(tmp_path: Path) -> None:
    first = RuntimeDir(tmp_path / "run")
    with pytest.raises(StartError, match="already running"):
        RuntimeDir(tmp_path / "run")
    first.clean()
    RuntimeDir(tmp_path / "run").clean()


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    run = RuntimeDir(tmp_path / "run")
    run.bind("control.sock", socket.SOCK_SEQPACKET).close()
    run.bind("control.sock", socket.SOCK_SEQPACKET).close()
    run.clean()


def test_a_socket_that_answers_is_left_alone(tmp_path: Path) -> None:
    run = RuntimeDir(tmp_path / "run")
    with run.bind("control.sock", socket.SOCK_SEQPACKET), pytest.raises(StartError, match="already answering"):
        run.bind("control.sock", socket.SOCK_SEQPACKET)
    run.clean()


@pytest.mark.parametrize("make", ["file", "dir", "link"])
def test_what_is_no_socket_of_ours_is_in_the_way(tmp_path: Path, make: str) -> None:
    run = RuntimeDir(tmp_path / "run")
    path = run.path / MINT
    {"file": path.touch, "dir": path.mkdir, "link": lambda: path.symlink_to("/dev/null")}[make]()
    with pytest.raises(StartError, match="not a socket of ours"):
        run.bind(MINT, socket.SOCK_SEQPACKET)
    assert os.path.lexists(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", 65534, 65534)
    with pytest.raises(StartError, match="belongs to uid 65534"):
        RuntimeDir(tmp_path / "run")


def test_a_directory_that_cannot_be_made_is_said_so() -> None:
    with pytest.raises(StartError, match="cannot make the runtime directory"):
        RuntimeDir(Path("/proc/nowhere/run"))
