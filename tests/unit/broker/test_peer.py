"""Kernel facts about real processes, and the walk over a /proc that a reused pid made inconsistent."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from outpass.broker import peer


@contextmanager
def forked(work: str = "import signal; signal.pause()") -> Iterator[int]:
    """A child by fork() without exec, that says when it is there."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(told, b".")
        exec(work)
        os._exit(0)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def proc_entry(proc: Path, pid: int, ppid: int, start: int, name: str = "x") -> None:
    fields = ["S", str(ppid), *["0"] * 17, str(start), *["0"] * 3, "4096", "0", "8192", *["0"] * 20]
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


def test_a_fork_has_the_image_of_its_parent_and_another_identity() -> None:
    own = peer.read_process(os.getpid())
    with forked() as pid:
        child = peer.read_process(pid)
        assert peer.read_image(child) == peer.read_image(own)
        assert child.key != own.key
        assert child.ppid == os.getpid()


def test_exec_changes_the_image_but_not_the_start_time() -> None:
    code = "import os, sys; sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.readline();"
    code += "os.execv(sys.executable, [sys.executable, '-c', 'import sys; print(1, flush=True); sys.stdin.read()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.read(1)
        before = peer.read_process(child.pid)
        image = peer.read_image(before)
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        after = peer.read_process(child.pid)
        assert after.key == before.key
        assert peer.read_image(after) != image
        child.stdin.close()


def test_a_process_name_with_parentheses_and_spaces_does_not_shift_the_fields() -> None:
    with forked("import ctypes, signal; ctypes.CDLL(None).prctl(15, b'a) R 1 (b', 0, 0, 0); signal.pause()") as pid:
        ctypes.CDLL(None)
        assert peer.read_process(pid).ppid == os.getpid()


@pytest.mark.parametrize("pid", [2**22 + 1, 0])
def test_a_process_that_is_not_there_is_a_lookup_error(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        peer.read_process(pid)


def test_the_walk_leads_over_real_parents_to_the_top() -> None:
    with forked() as pid:
        line = [p.pid for p in peer.ancestors(peer.read_process(pid))]
        assert line[0] == os.getpid()
        assert line[1] == os.getppid()


@pytest.mark.parametrize(
    ("why", "tree", "expected"),
    [
        ("a plain line", [(50, 40, 900), (40, 30, 800), (30, 1, 700), (1, 0, 1)], [40, 30, 1]),
        ("a parent that is younger than its child has a reused pid", [(50, 40, 900), (40, 30, 901), (30, 1, 5)], []),
        ("the same further up", [(50, 40, 900), (40, 30, 800), (30, 1, 801), (1, 0, 1)], [40]),
        ("a parent that is gone ends the line", [(50, 40, 900)], []),
        ("a parent in another namespace is 0", [(50, 0, 900)], []),
        ("started in the same tick is no contradiction", [(50, 40, 900), (40, 0, 900)], [40]),
    ],
)
def test_the_walk_stops_where_a_step_does_not_hold(
    tmp_path: Path, why: str, tree: list[tuple[int, int, int]], expected: list[int]
) -> None:
    for pid, ppid, start in tree:
        proc_entry(tmp_path, pid, ppid, start)
    first = peer.read_process(50, str(tmp_path))
    assert [p.pid for p in peer.ancestors(first, str(tmp_path))] == expected, why


def test_the_walk_is_bounded_even_in_a_circle(tmp_path: Path) -> None:
    proc_entry(tmp_path, 50, 51, 900)
    proc_entry(tmp_path, 51, 50, 900)
    assert len(peer.ancestors(peer.read_process(50, str(tmp_path)), str(tmp_path))) == peer.MAX_ANCESTORS


def test_the_pidfd_of_a_peer_tells_when_it_ends(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        code = f"import socket,sys; s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.connect({str(tmp_path / 's')!r}); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
            conn, _ = listener.accept()
            with conn:
                who = peer.peer_credentials(conn)
                assert (who.pid, who.uid) == (child.pid, os.getuid())
                pidfd = peer.peer_pidfd(conn, who.pid)
                try:
                    assert peer.still_alive(pidfd)
                    assert not os.get_inheritable(pidfd)
                    assert child.stdin is not None
                    child.stdin.close()
                    child.wait()
                    assert not peer.still_alive(pidfd)
                    try:  # since Linux 6.16 there is a pidfd even then, of a process that is not alive
                        late = peer.peer_pidfd(conn, who.pid)
                    except ProcessLookupError:
                        return
                    assert not peer.still_alive(late)
                    os.close(late)
                finally:
                    os.close(pidfd)
