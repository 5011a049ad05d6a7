"""What happens when a part of outpass dies under a running program: refused clearly, nothing let through, nothing lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import is_gate
from tests.support.jailed import impossible
from tests.support.origin import Origin
from tests.support.proc import below, command_of
from tests.support.runs import OUTPASS, apps, environment, outpass, records

POLICY = (
    'version: 1\ninclude: [preset:http-clients]\npackages:\n  app: {allow: [network:http], http: ["https://up.example.com/**"]}\n'
)
SCRIPT = """
import os, sys, time, requests
def ask(n):
    try:
        print(n, requests.get(f"https://up.example.com/{n}", timeout=20).status_code, flush=True)
    except Exception as e:
        print(n, "failed", type(e).__name__, flush=True)
ask("first")
while not os.path.exists("go"):
    time.sleep(0.02)
ask("second")
ask("third")
"""


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(("up.example.com",)) as running:
        yield running


def find(pid: int, words: str, seconds: float = 10) -> int:
    """The descendant of `pid` whose command line holds `words`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for one in below(pid):
            if words in command_of(one) and (words != "outpass.gate" or is_gate(one)):
                return one
        time.sleep(0.02)
    raise AssertionError(f"no descendant runs {words}")


@pytest.fixture(params=["no-jail", "jail"])
def jail(request: pytest.FixtureRequest) -> list[str]:
    """The option that makes the run's sort."""
    if request.param == "jail" and (why := impossible(os.getuid())):
        pytest.skip(f"no jail is possible here: {why}")
    return [] if request.param == "jail" else ["--no-jail"]


@contextlib.contextmanager
def running(home: Path, origin: Origin, jail: list[str]) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run that has made its first request and waits for the file `go`."""
    project = home / "project"
    project.mkdir(parents=True)
    (project / "main.py").write_text(SCRIPT)
    (project / "outpass.yaml").write_text(POLICY)
    command = [
        OUTPASS,
        "run",
        "--policy",
        "outpass.yaml",
        *jail,
        *origin.connect_to(),
        "--upstream-ca",
        str(origin.ca_file),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, "--", str(apps()), "main.py"], cwd=project, env=environment(home), **pipes)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "first 200\n", line + (process.stderr.read() if process.poll() is not None and process.stderr else "")
        yield process, project
    finally:
        process.kill()
        process.wait()


def test_a_gate_that_is_killed_is_replaced_and_the_program_goes_on(jail: list[str], origin: Origin, tmp_path: Path) -> None:
    with running(tmp_path, origin, jail) as (process, project):
        gate = find(process.pid, "outpass.gate")
        os.kill(gate, signal.SIGKILL)
        end = time.monotonic() + 10
        while find(process.pid, "outpass.gate") == gate and time.monotonic() < end:
            time.sleep(0.02)
        (project / "go").touch()
        out, err = process.communicate(timeout=60)
    assert "third 200" in out, out + err
    assert process.returncode == 0
    assert "gate" in err, "a gate that died is said"


def test_a_broker_that_is_killed_takes_every_way_out_with_it(jail: list[str], origin: Origin, tmp_path: Path) -> None:
    with running(tmp_path, origin, jail) as (process, project):
        gate = find(process.pid, "outpass.gate")
        os.kill(find(process.pid, "outpass.broker"), signal.SIGKILL)
        end = time.monotonic() + 10
        while command_of(gate) and time.monotonic() < end:
            time.sleep(0.02)
        assert not command_of(gate), "the gate ends with its broker"
        (project / "go").touch()
        out, err = process.communicate(timeout=60)
    assert "second failed" in out and "third failed" in out, out + err
    assert [seen.path for seen in origin.seen] == ["/first"]
    assert "outpass:" in err and "Traceback" not in err, err
    assert process.returncode == 0, "CMD's exit code stays CMD's"


def test_a_run_that_is_killed_closes_the_door_behind_its_program(jail: list[str], origin: Origin, tmp_path: Path) -> None:
    with running(tmp_path, origin, jail) as (process, project):
        program = find(process.pid, "main.py")
        gate = find(process.pid, "outpass.gate")
        process.kill()
        end = time.monotonic() + 15
        while command_of(gate) and time.monotonic() < end:
            time.sleep(0.05)
        assert not command_of(gate)
        (project / "go").touch()
        while command_of(program) and time.monotonic() < end:
            time.sleep(0.05)
    assert [seen.path for seen in origin.seen] == ["/first"]


def test_two_runs_under_one_daemon_keep_to_their_own_policy(origin: Origin, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    runtime = home / "daemon"
    runtime.mkdir(mode=0o700)
    gate_options = [*origin.connect_to(), "--upstream-ca", str(origin.ca_file)]
    daemon = subprocess.Popen(
        [OUTPASS, "daemon", "--runtime", str(runtime), *gate_options], env=environment(home), stderr=subprocess.PIPE, text=True
    )
    try:
        control = runtime / "control.sock"
        end = time.monotonic() + 20
        while not control.exists():
            assert time.monotonic() < end and daemon.poll() is None
            time.sleep(0.05)
        ask = 'import requests; print("status", requests.get("https://up.example.com/x").status_code)'
        (home / "main.py").write_text(ask)
        args = ("--no-jail", "-q", "--", str(apps()), "main.py")
        allowed = outpass(home, "run", "--allow", "app=https://up.example.com/**", *args, OUTPASS_SOCKET=str(control))
        refused = outpass(home, "run", "--allow", "app=https://other.example.com/**", *args, OUTPASS_SOCKET=str(control))
        assert "status 200" in allowed.stdout, allowed.stdout + allowed.stderr
        assert "status 403" in refused.stdout, refused.stdout + refused.stderr
        assert len(origin.seen) == 1
        reloaded = outpass(home, "reload", OUTPASS_SOCKET=str(control))
        assert reloaded.returncode == 0, reloaded.stderr
        second = outpass(home, "daemon", "--runtime", str(runtime))
        assert second.returncode == 125 and "already" in second.stderr, second.stderr
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    assert {r["verdict"] for r in records(home)} == {"allow", "deny"}
    assert not control.exists()
