"""What CMD may bring into a jail or keep open in it: descriptors, sockets, directories that can be written."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from tests.support.jailed import Attacker, Place


@pytest.mark.parametrize("what", ["tcp", "udp"])
def test_a_standard_input_that_would_lead_out_is_refused(jail: Place, what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        kind = socket.SOCK_STREAM if what == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.connect(server.getsockname())
            done = jail.run(["touch", "ran"], stdin=sock)
    assert done.code == 125 and "standard input is a socket that leads out of the jail" in done.error
    assert not (jail.project / "ran").exists() and not done.opened


def test_a_unix_stream_as_standard_input_is_fine(jail: Place) -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(b"over a pipe of node's\n")
    ours.shutdown(socket.SHUT_WR)
    with ours, theirs:
        assert jail.run(["cat"], stdin=theirs).out == "over a pipe of node's\n"


def test_no_other_descriptor_reaches_cmd_unless_it_was_named(jail: Place) -> None:
    first, second = os.pipe(), os.pipe()
    show = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}'))[3:])"
    kept = second[0]
    done = jail.python(show, pass_fds=[first[0], kept], request={"keep_fds": [kept]})
    for fd in (*first, *second):
        os.close(fd)
    assert json.loads(done.out) == [kept], done.err


def test_a_missing_descriptor_to_keep_is_said(jail: Place) -> None:
    assert "--keep-fd 99: there is no such descriptor" in jail.run(["true"], request={"keep_fds": [99]}).error


def test_a_working_directory_among_the_daemons_files_is_refused(jail: Place) -> None:
    done = jail.run(["true"], request={"cwd": str(jail.runtime / "maps")})
    assert done.code == 125 and "which is hidden in a jail" in done.error


def test_a_private_tmp_keeps_the_working_directory_and_nothing_else(jail: Place) -> None:
    (jail.project / "mine").touch()
    stranger = Path("/tmp") / f"{jail.path.name}-stranger"
    stranger.touch()
    script = "import os; print(os.listdir('.'), os.listdir('/tmp'), os.getcwd()); open('/tmp/new', 'w'); open('made', 'w')"
    try:
        done = jail.python(script, request={"private_tmp": True})
    finally:
        stranger.unlink()
    assert done.out.strip() == f"['mine'] ['{jail.path.name}'] {jail.project}", done.err + done.error
    assert (jail.project / "made").exists() and not Path("/tmp/new").exists()


def test_read_only_leaves_the_working_directory_and_tmp_writable(jail: Place) -> None:
    outside = jail.path / "elsewhere"
    outside.mkdir()
    jail.give(outside)
    script = f"""
for path in ("made", "/tmp/x", "/dev/shm/x", "/dev/null", "{outside}/x", "/var/lib/x", "/etc/x"):
    try: open(path, "w"); print("yes")
    except OSError as e: print(e.errno)
"""
    done = jail.python(script, request={"read_only": True})
    assert done.out.split()[:4] == ["yes"] * 4, done.out + done.err + done.error
    assert set(done.out.split()[4:]) <= {"30", "2", "13"}
    assert not (outside / "x").exists()


def test_a_socket_that_was_allowed_stays_reachable_and_its_neighbour_does_not(jail: Place) -> None:
    attacker = Attacker(jail.path)
    script = """
import socket, sys
for path in sys.argv[1:]:
    try: s = socket.socket(socket.AF_UNIX); s.connect(path); s.sendall(b"hi"); print(s.recv(10))
    except OSError as e: print(type(e).__name__)
"""
    other = str(jail.path / "other.sock")
    attacker.late(other)
    done = jail.python(script, attacker.stream, other, request={"allow_unix": [attacker.stream]})
    attacker.close()
    assert done.out.split() == ["b'ok'", "ConnectionRefusedError"], done.out + done.error


@pytest.mark.parametrize("path", ["/run", "/", "{runtime}", "{runtime}/control.sock"])
def test_a_socket_directory_that_would_open_the_veils_is_refused(jail: Place, path: str) -> None:
    done = jail.run(["true"], request={"allow_unix": [path.format(runtime=jail.runtime)]})
    assert done.code == 125 and "would open what the jail hides" in done.error
