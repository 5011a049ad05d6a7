"""Looking at the machine: what is read from /proc, and which descriptors may be handed on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from outpass.errors import StartError
from outpass.jail import host


@pytest.mark.parametrize(
    ("sentence", "lines", "expected"),
    [
        ("the first namespace", "         0          0 4294967295\n", "0 0 65536"),
        ("a container with fewer ids", "0 100000 1000\n", "0 0 1000"),
        ("a container in two ranges", "0 1000 1\n1 100000 65536\n", "0 0 1\n1 1 65535"),
        ("ranges beyond the limit are left out", "0 0 1\n70000 70000 5\n", "0 0 1"),
        ("nothing", "", ""),
    ],
)
def test_identity_maps(sentence: str, lines: str, expected: str) -> None:
    assert host.identity_map(lines) == expected, sentence


@pytest.mark.parametrize(
    ("sentence", "point", "whole"),
    [
        ("nothing on /proc", "/proc", True),
        ("systemd's empty directory", "/proc/sys/fs/binfmt_misc", True),
        ("a container's mask", "/proc/kcore", False),
        ("a container's read-only part", "/proc/sys", False),
        ("another place that begins the same", "/processes", True),
    ],
)
def test_whether_proc_is_whole(sentence: str, point: str, whole: bool) -> None:
    info = f"21 1 0:20 / / rw - ext4 /dev/x rw\n22 21 0:21 / {point} rw - proc proc rw\n"
    assert host.proc_is_whole(info) is whole, sentence


def test_socket_paths_are_those_with_a_path() -> None:
    table = (
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000: 00000002 00000000 00010000 0001 01 100 /run/docker.sock\n"
        "0000: 00000002 00000000 00000000 0002 01 101 /tmp/with a space\n"
        "0000: 00000003 00000000 00000000 0001 03 102\n"
        "0000: 00000002 00000000 00010000 0001 01 103 @abstract\n"
        "0000: 00000002 00000000 00010000 0001 01 104 /run/docker.sock\n"
    )
    assert host.socket_paths(table) == ["/run/docker.sock", "/tmp/with a space"]


def test_looking_changes_nothing_and_finds_this_machine() -> None:
    found = host.look(os.environ)
    assert (found.uid, found.machine) == (os.getuid(), os.uname().machine)


@pytest.fixture
def descriptors(tmp_path) -> Iterator[dict[str, int]]:
    (tmp_path / "file").touch()
    stream, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    datagram, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(tmp_path / "s"))
    listening.listen()
    fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server = socket.create_server(("127.0.0.1", 0))
    tcp = socket.create_connection(server.getsockname())
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    read, write = os.pipe()
    folder, file = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "file", os.O_RDONLY)
    sockets = (stream, peer, datagram, other, listening, fresh, server, tcp, udp)
    yield {
        "a pipe": read,
        "a file": file,
        "a connected Unix stream": stream.fileno(),
        "a listening Unix stream": listening.fileno(),
        "a directory": folder,
        "a connected TCP socket": tcp.fileno(),
        "a listening TCP socket": server.fileno(),
        "a UDP socket": udp.fileno(),
        "a Unix datagram socket": datagram.fileno(),
        "a Unix stream that is not connected yet": fresh.fileno(),
    }
    for sock in sockets:
        sock.close()
    for fd in (read, write, folder, file):
        os.close(fd)


@pytest.mark.parametrize("what", ["a pipe", "a file", "a connected Unix stream", "a listening Unix stream"])
def test_descriptors_that_lead_nowhere_may_be_kept(what: str, descriptors: dict[str, int]) -> None:
    host.check_descriptors([descriptors[what]])


@pytest.mark.parametrize(
    "what",
    [
        "a directory",
        "a connected TCP socket",
        "a listening TCP socket",
        "a UDP socket",
        "a Unix datagram socket",
        "a Unix stream that is not connected yet",
    ],
)
def test_descriptors_that_lead_out_are_refused(what: str, descriptors: dict[str, int]) -> None:
    with pytest.raises(StartError) as refused:
        host.check_descriptors([descriptors[what]])
    assert f"--keep-fd {descriptors[what]}" in refused.value.message and refused.value.hint
    os.fstat(descriptors[what])  # looked at, not closed


def test_java_stores_are_found_by_their_homes(tmp_path) -> None:
    store = tmp_path / "lib" / "security" / "cacerts"
    store.parent.mkdir(parents=True)
    store.touch()
    assert str(store) in host.java_stores({"JAVA_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("sentence", "text", "env", "expected"),
    [
        ("as Kubernetes writes it", "search a.svc b\nnameserver 10.96.0.10\noptions ndots:5\n", {}, ["a.svc", "b"]),
        ("the last line counts", "search a b\ndomain c d\n", {}, ["c"]),
        ("the variable goes first", "search a b\n", {"LOCALDOMAIN": "x y"}, ["x", "y"]),
        ("an empty variable means no list", "search a b\n", {"LOCALDOMAIN": ""}, []),
        ("comments, and nothing after the word", "# search a\n;domain b\nsearch\n", {}, []),
        ("no file", None, {}, []),
    ],
)
def test_search_lists(sentence: str, text: str | None, env: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    if text is not None:
        file.write_text(text)
    assert host.search_list(env, str(file)) == expected, sentence
