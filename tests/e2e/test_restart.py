"""A daemon that is restarted under running programs: refused clearly meanwhile, and then everything goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.jailed import impossible
from tests.support.operators import Operator, running
from tests.support.origin import Origin
from tests.support.runs import records
from tests.support.waiting import until


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(("up.example.com",)) as running:
        yield running


@pytest.fixture
def operator(tmp_path: Path, origin: Origin) -> Iterator[Operator]:
    made = Operator(tmp_path, origin)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()


@pytest.fixture(params=["no-jail", "jail"])
def jail(request: pytest.FixtureRequest) -> list[str]:
    """The option that makes the run's sort."""
    if request.param == "jail" and (why := impossible(os.getuid())):
        pytest.skip(f"no jail is possible here: {why}")
    return [] if request.param == "jail" else ["--no-jail"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_goes_on_under_the_next_daemon(
    jail: list[str], how: signal.Signals, origin: Origin, operator: Operator
) -> None:
    """The same process, with the CA that it read at its start, its session, its children, and a child from before."""
    operator.start()
    with running(operator, jail, "--summary", "summary.json") as program:
        assert program.ask("first") == "200", program.errors.read_text()
        until("the first record", lambda: records(operator.home))  # a killed gate may lose its last ones (SECURITY.md)
        operator.end(how)
        program.until_said("the daemon ended")
        began = time.monotonic()
        away = program.ask("away")
        assert "efused" in away or "reset" in away, away
        assert time.monotonic() - began < 15, "refused, not left to wait for its own timeout"
        operator.start()
        program.until_said("the daemon is back")
        assert program.ask("second") == "200", program.errors.read_text() + operator.said.read_text()
        assert program.ask("child") == "200", program.errors.read_text()
        assert program.ask("shell") == "200", f"a pass of the first daemon's: {records(operator.home)[-1]}"
        said = program.finish()
    assert [seen.path for seen in origin.seen] == ["/first", "/second", "/child", "/old"], said
    summary = json.loads((program.project / "summary.json").read_text())
    assert (summary["allowed"], summary["denied"]) == (4, 0), f"what was counted before the restart counts: {summary}"
    assert "Traceback" not in said


def test_a_published_port_is_published_again(origin: Origin, operator: Operator) -> None:
    if why := impossible(os.getuid()):
        pytest.skip(f"no jail is possible here: {why}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def served() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 30) as sock:
            sock.sendall(b"GET /main.py HTTP/1.0\r\n\r\n")
            return sock.recv(12) == b"HTTP/1.0 200"
        return False

    operator.start()
    with running(operator, [], "--publish", f"{port}:8000") as program:
        assert program.ask("serve") == "serves", program.errors.read_text()
        until("the published port", served)
        operator.end(signal.SIGKILL)
        until("the end of it", lambda: not served())
        operator.start()
        program.until_said("the daemon is back")
        until("the port again", served)
        program.finish()
