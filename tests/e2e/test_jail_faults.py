"""Bad luck and bad input around `outpass run` in its jail, as root and as a user: refused clearly, nothing let through."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.homes import Home
from tests.support.jailed import USER
from tests.support.origin import Origin
from tests.support.proc import below
from tests.support.runs import OUTPASS, apps, environment, outpass
from tests.support.waiting import until

DENY = "version: 1\npackages: {}\n"
GRANTED = (
    'version: 1\ninclude: [preset:http-clients]\npackages:\n  app: {allow: [network:http], http: ["https://up.example.com/**"]}\n'
)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(("up.example.com",)) as running:
        yield running


@pytest.mark.parametrize(("command", "code"), [("no-such-program", 127), ("/etc/passwd", 126), ("/etc", 126)])
def test_a_command_that_cannot_be_started(command: str, code: int, home: Home) -> None:
    run = home.run(DENY, [command])
    assert run.code == code and f"{command}: " in run.err and "Traceback" not in run.err, run.said()


DAEMON = """
import os, sys, time
import requests
if os.fork():
    print("parent ends", flush=True)
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
for fd in (0, 1, 2):
    os.dup2(os.open(os.devnull, os.O_RDWR), fd)
open("pid", "w").write(str(os.getpid()))
while not os.path.exists("go"):
    time.sleep(0.02)
try:
    answer = str(requests.get("https://up.example.com/late", timeout=10).status_code)
except Exception as e:
    answer = type(e).__name__
open("answer.new", "w").write(answer)
os.rename("answer.new", "answer")
"""


def test_what_a_command_leaves_behind_reaches_nothing(home: Home, origin: Origin) -> None:
    home.put("project/main.py", DAEMON)
    run = home.run(GRANTED, [str(apps()), "main.py"], *origin.connect_to(), ca=origin.ca_file)
    assert run.code == 0 and "parent ends" in run.out, run.said()
    (home.project / "go").touch()
    if not home.who.uid:  # with a PID namespace of its own nothing is left at all
        assert not (home.project / "answer").exists()
    else:
        with contextlib.suppress(AssertionError):
            until("it ended before it could ask", (home.project / "answer").exists, seconds=15)
        if (home.project / "answer").exists():
            assert not (home.project / "answer").read_text().isdecimal(), "it was answered"
    assert origin.seen == []


def test_a_standard_input_that_leads_out_is_refused(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside, socket.create_connection(outside.getsockname()) as leak:
        process = home.start(DENY, ["touch", "ran"], stdin=leak)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 125 and "standard input is a socket that leads out of the jail" in err, err
    assert not (home.project / "ran").exists()


def test_a_forwarded_port_that_the_gate_uses_itself_is_refused(home: Home) -> None:
    run = home.run(DENY, ["touch", "ran"], "--forward", "3128")
    assert run.code == 125 and "--forward 3128: the gate listens on port 3128 of every jail" in run.err, run.said()
    assert not (home.project / "ran").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_a_terminals_signal_ends_the_command_and_the_run_says_so(signum: signal.Signals, home: Home) -> None:
    script = "import time; open('up', 'w').close(); time.sleep(60)"
    home.put("project/main.py", "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + script)
    process = home.start(DENY, [str(apps()), "main.py"], start_new_session=True)
    until("CMD does not start", (home.project / "up").exists, seconds=60)
    os.killpg(process.pid, signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, out + err
    assert "Traceback" not in err, err


def test_what_a_killed_daemon_left_is_no_obstacle_and_stays_hidden(home: Home) -> None:
    home.put("project/main.py", "import time; open('up', 'w').close(); time.sleep(60)")
    process = home.start(DENY, [str(apps()), "main.py"])
    until("CMD does not start", (home.project / "up").exists, seconds=60)
    for pid in (process.pid, *below(process.pid)):  # all at once: nobody is left to clean up, and CMD lets go of its pipes
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    left = list((home.path / "run").iterdir())
    assert left, "the killed daemon could not clean up"
    run = home.run(DENY, ["sh", "-c", f"ls -A {home.path / 'run'}; ls -A {left[0]}"])
    assert left[0].name not in run.out and "control" not in run.out, run.said()


SQUATTER = """
import json, os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(sys.argv[1])
server.listen()
print("up", flush=True)
while True:
    peer, _ = server.accept()
    while peer.recv(65536):
        peer.send(json.dumps({"ok": True, "jail": "j", "mint": "/x", "ca": "/x", "bundle": "/x", "summary": {}}).encode())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs uid 0 to be somebody else")
def test_a_control_socket_that_somebody_else_bound_is_not_spoken_to(home: Home) -> None:
    squatter_uid = USER + 1
    place = Path("/tmp") / f"opq-{os.getpid()}-{home.who.uid}"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    path = place / "control.sock"
    squatter = subprocess.Popen([sys.executable, "-c", SQUATTER, str(path), str(squatter_uid)], stdout=subprocess.PIPE, text=True)
    try:
        assert squatter.stdout is not None and squatter.stdout.readline() == "up\n"
        path.chmod(0o777)
        home.own()
        done = outpass(home.path, "run", "--deny-all", "--", "touch", "ran", cwd=home.project, OUTPASS_SOCKET=str(path))
        assert done.returncode == 125 and f"is run by uid {squatter_uid}" in done.stderr, done.stderr
        assert not (home.project / "ran").exists()
    finally:
        squatter.kill()
        squatter.wait()
        path.unlink()
        place.rmdir()


def test_exhausted_namespaces_are_said_with_what_to_do(tmp_path: Path) -> None:
    inside = f"echo 0 >/proc/sys/user/max_user_namespaces; exec {OUTPASS} run --deny-all -- touch ran"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False, env=environment(tmp_path)
    )
    assert done.returncode == 125 and "user.max_user_namespaces" in done.stderr and "outpass doctor" in done.stderr, done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_read_only_proc_is_said(tmp_path: Path) -> None:
    inside = f"mount --bind /proc /proc && mount -o remount,ro,bind /proc && exec {OUTPASS} run --deny-all -- touch ran"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False, env=environment(tmp_path)
    )
    assert done.returncode == 125 and "read-only file system" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("sentence", "outer", "inner", "code", "says"),
    [
        ("without leave", [], [], 125, "--allow-userns"),
        ("with leave", ["--allow-userns"], [], 0, "whose system call filter refuses nftables: programs that do not use"),
        ("without a jail of its own", [], ["--no-jail"], 0, "--no-jail: nothing but the shim"),
    ],
)
def test_outpass_in_outpass(
    sentence: str, outer: list[str], inner: list[str], code: int, says: str, home: Home, origin: Origin
) -> None:
    """The inner one's policy allows all; what arrives is what the outer one's lets through: nothing."""
    ask = 'open("ran", "w").close()\nimport requests\ntry: requests.get("https://up.example.com/", timeout=10)\nexcept OSError: pass\n'
    home.put("project/main.py", ask)
    command = [OUTPASS, "run", *inner, "--allow", "https://up.example.com/**", "--", str(apps()), "main.py"]
    run = home.run(DENY, command, *outer, *origin.connect_to(), ca=origin.ca_file)
    assert run.code == code and says in run.err and "Traceback" not in run.err, run.said()
    assert (home.project / "ran").exists() is (code == 0)
    assert origin.seen == []


def test_a_jail_is_served_by_two_gates_names_and_all(home: Home, origin: Origin) -> None:
    """Lookups, their answers and the connections to them come to either gate."""
    ask = (
        "import socket\n"
        "for n in range(12):\n"
        "    found = socket.getaddrinfo('up.example.com', 443, socket.AF_INET, socket.SOCK_STREAM)\n"
        "    assert found[0][4][0].startswith('198.'), found\n"
        "import requests\n"
        "print([requests.get(f'https://up.example.com/{n}', timeout=60).status_code for n in range(12)])\n"
    )
    home.put("project/main.py", ask)
    run = home.run(GRANTED, [str(apps()), "main.py"], "--gates", "2", *origin.connect_to(), ca=origin.ca_file)
    assert run.code == 0 and str([200] * 12) in run.out, run.said()
    assert sorted(seen.path for seen in origin.seen) == sorted(f"/{n}" for n in range(12))
