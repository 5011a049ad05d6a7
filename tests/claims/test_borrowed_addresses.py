"""An address that a session was given for one of its chains is no good to another process of the same jail.

Judged at the server that the address leads to, and by whom the audit log charges. Each attack is shown to be one: the process
that the address was given to gets through by it, natively and through the shim.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon, daemon
from tests.support.enclosed import Enclosure, enclosure, possible
from tests.support.streams import Streams
from tests.support.waiting import until

POLICY = """
version: 1
packages:
  app: {allow: [network:socket], socket: ["echo.example.com:7"]}
  "exe:bash": {allow: [network:socket], socket: ["other.example.com:7"]}
"""
OWNER = """
import _socket, os, socket, sys, time
address = socket.getaddrinfo("echo.example.com", 7, type=socket.SOCK_STREAM)[0][4]
def native(text):
    s = _socket.socket(); s.connect(address); s.send(text); print(text, s.recv(100)); s.close()
native(b"<owner natively>")
if os.fork() == 0:
    native(b"<owner's fork>")
    os._exit(0)
os.wait()
for number in range(12):                       # sent and closed before anybody can look who held it
    s = socket.create_connection(("echo.example.com", 7)); s.sendall(b"<in haste %d>" % number); s.close()
with open(sys.argv[1] + ".new", "w") as file: file.write(address[0])
os.rename(sys.argv[1] + ".new", sys.argv[1])
while not os.path.exists(sys.argv[2]): time.sleep(0.02)
"""
NATIVELY = """
import _socket, sys
for _ in range(5):
    s = _socket.socket()
    try: s.connect((sys.argv[1], 7)); s.send(b"<borrowed>"); HASTE or print(s.recv(100))
    except OSError as e: print(e)
    s.close()
"""
BY_SHIM = """
import socket, sys
try: s = socket.create_connection((sys.argv[1], 7)); s.sendall(b"<borrowed>"); print(s.recv(100))
except OSError as e: print(type(e).__name__, e)
"""
BY_WORD = """
import _socket, json, os, socket, sys
from outpass_shim import _session
_session.ensure(); s = _socket.socket(); s.connect((sys.argv[1], 7))
_session.connected(s.getsockname(), (sys.argv[1], 7))    # "it is mine": it is, and so the owner's name is not had by that
try: s.send(b"<borrowed>"); print(s.recv(100))
except OSError as e: print(e)
"""


@pytest.fixture(scope="module")
def streams() -> Iterator[Streams]:
    with Streams() as made:
        yield made


@pytest.fixture(scope="module")
def outpassd(tmp_path_factory: pytest.TempPathFactory, streams: Streams) -> Iterator[RunningDaemon]:
    if not possible():
        pytest.skip("no network namespace can be made here")
    with daemon(tmp_path_factory.mktemp("borrowed"), *streams.connect_to()) as started:
        yield started


@pytest.fixture(scope="module")
def attack(outpassd: RunningDaemon, streams: Streams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """What the server got, and the jail, after an owner and then an attacker ran side by side."""
    app, elsewhere = tmp_path_factory.mktemp("app"), tmp_path_factory.mktemp("elsewhere")
    (app / "owner.py").write_text(OWNER)
    (app / "spawning.py").write_text(OWNER + "\nimport subprocess\nsubprocess.run(sys.argv[3:] + [address[0]])\n")
    (elsewhere / "attack.py").write_text("import nobody\n")
    with enclosure(outpassd, POLICY, app) as jail:

        def go(*command: str, script: str = "", owner: str = "owner.py") -> tuple[bytes, Enclosure]:
            (elsewhere / "nobody.py").write_text(script)  # a module of no package and under no root: `?`
            (elsewhere / "done").unlink(missing_ok=True)
            (elsewhere / "address").unlink(missing_ok=True)
            before = len(streams.got("echo"))
            shell = """
                where=$1 python=$2 owner=$3; shift 3
                "$python" "$owner" "$where/address" "$where/done" & pid=$!
                while ! test -e "$where/address"; do kill -0 $pid || exit 9; sleep 0.05; done
                "$@" "$(cat "$where/address")"
                touch "$where/done"; wait
            """
            if owner != "owner.py":  # it runs the attack itself
                (elsewhere / "done").touch()
                done = jail.run(
                    sys.executable, str(app / owner), str(elsewhere / "address"), str(elsewhere / "done"), *command, shim=True
                )
            else:
                done = jail.run("sh", "-c", shell, "sh", str(elsewhere), sys.executable, str(app / owner), *command, shim=True)
            for word in (b"<owner natively>", b"<owner's fork>", *(b"<in haste %d>" % n for n in range(12))):
                until(f"{word!r} arrived: {done.stdout} {done.stderr}", lambda w=word: w in streams.got("echo")[before:])
            return streams.got("echo")[before:], jail

        go.attacker = [sys.executable, str(elsewhere / "attack.py")]  # type: ignore[attr-defined]
        yield go


@pytest.mark.parametrize(
    ("sentence", "script", "principal"),
    [
        ("a process with a session of its own, natively", NATIVELY.replace("HASTE", "False"), "unattributed"),
        ("and gone before anybody can look", NATIVELY.replace("HASTE", "True"), "unattributed"),
        ("by the shim, which asks for its own", BY_SHIM, "?"),
        ("and says that the connection is its own", BY_WORD, "unattributed"),
    ],
)
def test_another_process_with_a_session_is_charged_as_itself(attack: Any, sentence: str, script: str, principal: str) -> None:
    got, jail = attack(*attack.attacker, script=script)
    assert b"<borrowed>" not in got, sentence
    (*_, record) = jail.records(verdict="deny", principal=principal, host="echo.example.com", port=7)
    if "natively" not in sentence and "gone" not in sentence:  # these two never asked for a session
        assert record["sid"], "it says which process it was"


def test_a_program_without_a_session_is_charged_as_the_program(attack: Any) -> None:
    got, jail = attack("bash", "-c", 'exec 3<>/dev/tcp/$0/7 && echo "<borrowed>" >&3 && read -t 20 <&3')
    assert b"<borrowed>" not in got
    assert jail.records(verdict="deny", principal="exe:bash", host="echo.example.com", chain=["exe:bash"])


def test_a_program_that_the_owner_started_with_the_address_is_that_program(attack: Any) -> None:
    command = ("bash", "-c", 'exec 3<>/dev/tcp/$0/7 && echo "<borrowed>" >&3 && read -t 20 <&3')
    got, jail = attack(*command, owner="spawning.py")
    assert b"<borrowed>" not in got
    assert jail.records(verdict="deny", principal="exe:bash", host="echo.example.com", chain=["exe:bash", "app"])
