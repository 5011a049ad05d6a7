"""`--publish`: a server in the jail reached from outside of it, when the policy grants `network:listen`; judged from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.homes import Home
from tests.support.proc import below, command_of
from tests.support.runs import OUTPASS, apps, environment, outpass, records
from tests.support.waiting import until

UVICORN = """
import sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    size = int(scope["query_string"] or b"0")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside" + bytes(size)})
if __name__ == "__main__":
    uvicorn.run(app, host=sys.argv[1], port=8000, log_level="warning", access_log=False)
"""
ECHO = """
import socket, threading
server = socket.create_server(("127.0.0.1", 8000))
print("ready", flush=True)
def serve(peer):
    while data := peer.recv(65536):
        peer.sendall(data)
    peer.sendall(b" and the rest")   # after the client's half has ended
    peer.close()
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
GRANTED = 'version: 1\npackages:\n  uvicorn: {allow: [network:listen], listen: ["8000"]}\n'
PORT = re.compile(r"published: 127\.0\.0\.1:(\d+) is 8000")


@contextlib.contextmanager
def served(
    home: Home, script: str, *options: str, args: tuple[str, ...] = (), policy: str = GRANTED
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run of `script` with a published port, and the port's number outside."""
    home.put("project/serving.py", script)
    with (home.path / "err").open("w+") as said:
        options = options or ("--publish", "0:8000")
        process = home.start(policy, [str(apps()), "serving.py", *args], *options, stderr=said)
        try:
            until("nothing is published", lambda: PORT.search((home.path / "err").read_text()) or process.poll() is not None)
            found = PORT.search((home.path / "err").read_text())
            assert found, (home.path / "err").read_text()
            yield process, int(found[1])
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def get(port: int, query: str = "") -> bytes:
    """One plain request from outside; empty when the connection is refused or reset."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(f"GET /?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while block := sock.recv(1 << 16):
                answer += block
    except ConnectionError:
        return b""
    return answer


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_server_in_the_jail_answers_outside(address: str, home: Home) -> None:
    with served(home, UVICORN, args=(address,)) as (_, port):
        until("the server does not answer", lambda: b"inside" in get(port))
        answer = get(port, str(3 << 20))
        assert answer.startswith(b"HTTP/1.1 200") and len(answer) > 3 << 20
    assert ("network:listen", "allow", "uvicorn", "broker") in {
        (r["capability"], r["verdict"], r["principal"], r["source"]) for r in records(home.path)
    }
    assert get(port) == b"", "the port ends with the jail"


def test_both_ways_end_on_their_own(home: Home) -> None:
    with served(home, ECHO) as (process, port):
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(b"x" * 300_000)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while block := sock.recv(1 << 16):
                answer += block
        assert answer == b"x" * 300_000 + b" and the rest"


def test_nobody_listening_inside_is_a_reset_outside(home: Home) -> None:
    with served(home, "import time; time.sleep(60)") as (_, port):
        assert get(port) == b""


def test_another_port_of_the_jail_is_not_reachable(home: Home) -> None:
    with served(home, UVICORN.replace("8000", "8001"), args=("0.0.0.0",)) as (_, port):
        assert get(port) == b""


@pytest.mark.parametrize(
    ("sentence", "policy", "says"),
    [
        ("no rule", "version: 1\npackages: {}\n", '- "127.0.0.1:8000"'),
        ("another port", GRANTED.replace("8000", "8001"), '- "127.0.0.1:8000"'),
        ("another address", GRANTED.replace('"8000"', '"10.0.0.1:8000"'), '- "127.0.0.1:8000"'),
        (
            "denied",
            "version: 1\npackages:\n  uvicorn:\n    allow: [network:listen]\n    deny: {listen: [8000]}\n",
            "network:listen",
        ),
    ],
)
def test_without_a_grant_nothing_starts_and_the_line_to_add_is_said(sentence: str, policy: str, says: str, home: Home) -> None:
    run = home.run(policy, ["touch", "ran"], "--publish", "0:8000")
    assert run.code == 125, run.said()
    assert "--publish 127.0.0.1:8000" in run.err and says in run.err, run.said()
    assert not (home.project / "ran").exists()
    assert {r["verdict"] for r in run.records} == {"deny"}, run.said()


def test_the_line_to_add_is_the_line_that_allows_it(home: Home) -> None:
    refused = home.run("version: 1\npackages: {}\n", ["true"], "--publish", "0:8000")
    lines = [line.removeprefix("outpass: hint: ") for line in refused.err.splitlines() if line.startswith("outpass: hint: ")]
    added = "version: 1\n" + "\n".join(lines[lines.index("packages:") :]) + "\n"
    assert home.run(added, ["true"], "--publish", "0:8000").code == 0, added


def test_a_port_in_use_outside_is_said_and_nothing_starts(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        run = home.run(GRANTED, ["touch", "ran"], "--publish", f"{number}:8000")
    assert run.code == 125 and f"127.0.0.1:{number}: address already in use" in run.err, run.said()
    assert not (home.project / "ran").exists()


def test_a_forwarded_port_that_is_published_too_is_no_way_round(home: Home) -> None:
    """--forward takes the port inside, so a published one leads to the gate's door and not to the host's loopback unjudged."""
    with socket.create_server(("127.0.0.1", 0)) as victim:
        number = victim.getsockname()[1]
        policy = GRANTED.replace("8000", str(number))
        home.put("project/serving.py", "import time; time.sleep(60)")
        with (home.path / "err").open("w+") as said:
            process = home.start(
                policy, [str(apps()), "serving.py"], "--publish", f"0:{number}", "--forward", str(number), stderr=said
            )
            try:
                until("nothing said", lambda: "published" in (home.path / "err").read_text() or process.poll() is not None)
                found = re.search(r"published: 127\.0\.0\.1:(\d+)", (home.path / "err").read_text())
                if found:
                    get(int(found[1]))
                victim.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    victim.accept()
            finally:
                process.terminate()
                process.wait(20)


def test_a_killed_launcher_takes_its_ports_along(home: Home) -> None:
    with served(home, UVICORN, args=("127.0.0.1",)) as (process, port):
        until("the server does not answer", lambda: b"inside" in get(port))
        everybody = below(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        try:
            until("the port outlives its launcher", lambda: get(port) == b"")
            with socket.create_server(("127.0.0.1", port)):
                pass
        finally:
            for pid in everybody:  # without a pid namespace CMD goes on, cut off
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_a_reload_that_takes_the_right_away_closes_the_port(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    runtime = home / "daemon"
    runtime.mkdir(mode=0o700)
    control = runtime / "control.sock"
    policy = home / "outpass.yaml"
    policy.write_text(GRANTED)
    (home / "serving.py").write_text(ECHO)
    env = {**environment(home), "OUTPASS_SOCKET": str(control)}
    with (home / "err").open("w") as said, (home / "daemon-err").open("w") as told:
        daemon = subprocess.Popen([OUTPASS, "daemon", "--runtime", str(runtime)], env=environment(home), stderr=told)
        run = None
        try:
            until("the daemon does not start", control.exists)
            command = [OUTPASS, "run", "--policy", str(policy), "--publish", "0:8000", "--", str(apps()), "serving.py"]
            run = subprocess.Popen(command, env=env, cwd=home, stderr=said, stdout=subprocess.PIPE, text=True)
            assert run.stdout is not None and run.stdout.readline() == "ready\n", (home / "err").read_text()
            found = PORT.search((home / "err").read_text())
            assert found
            with socket.create_connection(("127.0.0.1", int(found[1])), timeout=20) as live:
                live.sendall(b"one")
                assert live.recv(10) == b"one"
                policy.write_text("version: 1\npackages: {}\n")
                assert outpass(home, "reload", OUTPASS_SOCKET=str(control)).returncode == 0
                with contextlib.suppress(ConnectionResetError):
                    assert live.recv(10) == b"", "the live connection is closed"
            until("the port is still open", lambda: get(int(found[1])) == b"")
            assert run.poll() is None, "CMD goes on"
            assert "no longer listen on 8000" in (home / "daemon-err").read_text()
        finally:
            for process in (run, daemon):
                if process is not None:
                    process.terminate()
                    process.wait(20)


def test_a_daemon_that_dies_takes_the_ports_along(home: Home) -> None:
    with served(home, UVICORN, args=("127.0.0.1",)) as (process, port):
        until("the server does not answer", lambda: b"inside" in get(port))
        brokers = [p for p in below(process.pid) if "outpass.broker" in command_of(p)]
        assert len(brokers) == 1
        os.kill(brokers[0], signal.SIGKILL)
        until("the port outlives the daemon", lambda: get(port) == b"")


def test_the_relays_hold_nothing_of_the_jails_and_the_makers_nothing_of_the_hosts(home: Home) -> None:
    with served(home, UVICORN, args=("127.0.0.1",)) as (process, port):
        until("the server does not answer", lambda: b"inside" in get(port))
        outside = os.stat("/proc/self/ns/net").st_ino
        children = [p for p in below(process.pid) if "--publish" in command_of(p)]
        kinds = {}
        for pid in children:
            net = os.stat(f"/proc/{pid}/ns/net").st_ino
            caps = re.search(r"CapEff:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
            fds = sorted(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))
            kinds[pid] = (net == outside, caps[1] if caps else "", fds)
        makers = [k for k in kinds.values() if not k[0] and k[2] == ["/dev/null"] * 3 + ["socket"]]
        assert len(makers) == 1 and int(makers[0][1], 16) == 0, kinds


def test_two_ports_and_an_ipv6_address(home: Home) -> None:
    home.put("project/serving.py", UVICORN)
    policy = GRANTED.replace('["8000"]', '["8000-8001"]')
    with (home.path / "err").open("w+") as said:
        options = ["--publish", "[::1]:0:8000", "--publish", "0:8001"]
        process = home.start(policy, [str(apps()), "serving.py", "127.0.0.1"], *options, stderr=said)
        try:
            until("not said", lambda: (home.path / "err").read_text().count("published") == 2 or process.poll() is not None)
            found = re.search(r"published: \[::1\]:(\d+) is 8000", (home.path / "err").read_text())
            assert found, (home.path / "err").read_text()

            def answers() -> bool:
                with contextlib.suppress(ConnectionError), socket.create_connection(("::1", int(found[1])), timeout=10) as sock:
                    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    return b"200" in sock.recv(100)
                return False

            until("no answer over IPv6", answers)
        finally:
            process.terminate()
            process.wait(20)


def test_many_connections_at_once(home: Home) -> None:
    with served(home, ECHO) as (process, port), contextlib.ExitStack() as all_of_them:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        socks = [all_of_them.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(300)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%d" % number)
        end = time.monotonic() + 30
        for number, sock in enumerate(socks):
            assert sock.recv(10) == b"%d" % number and time.monotonic() < end
