"""`outpass reload` and SIGHUP under running programs: all of them at once, a bad file loud and without effect."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.operators import POLICY, Operator, running
from tests.support.origin import Origin
from tests.support.runs import outpass
from tests.support.waiting import until


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(("up.example.com",)) as running_origin:
        yield running_origin


def test_every_run_gets_its_new_policy_and_the_operators_and_a_bad_one_changes_nothing(origin: Origin, tmp_path: Path) -> None:
    above = tmp_path / "above.yaml"
    above.write_text("version: 1\n")
    operator = Operator(tmp_path, origin, "--policy", str(above))
    operator.start()
    assert operator.process is not None
    socket = str(operator.runtime / "control.sock")
    try:
        with running(operator, ["--no-jail"], name="one") as one, running(operator, ["--no-jail"], name="two") as two:
            assert (one.ask("a"), two.ask("a")) == ("200", "200"), one.errors.read_text()

            (one.project / "outpass.yaml").write_text(POLICY.replace("/**", "/b"))
            (two.project / "outpass.yaml").write_text(POLICY.replace("/**", "/c"))
            done = outpass(tmp_path, "reload", "--json", OUTPASS_SOCKET=socket)
            assert done.returncode == 0 and len(json.loads(done.stdout)["jails"]) == 2, done.stderr
            assert [one.ask(word) for word in "abc"] == ["403", "200", "403"]
            assert [two.ask(word) for word in "abc"] == ["403", "403", "200"]

            (one.project / "outpass.yaml").write_text("version: 1\npackges: {}\n")
            (two.project / "outpass.yaml").write_text(POLICY)
            done = outpass(tmp_path, "reload", OUTPASS_SOCKET=socket)
            assert done.returncode == 2 and "packges" in done.stderr, done.stderr
            assert "the last good one stays in force" in operator.said.read_text()
            assert [one.ask(word) for word in "ab"] == ["403", "200"], "the last good one"
            assert two.ask("a") == "200", "another's fault is not its"

            above.write_text("version: 1\nmode: audit\n")
            (one.project / "outpass.yaml").write_text(POLICY.replace("/**", "/b"))
            operator.process.send_signal(signal.SIGHUP)
            until("audit mode", lambda: one.ask("a") == "200")
            above.write_text("version: 1\nceiling: {http: ['https://up.example.com/b']}\n")
            operator.process.send_signal(signal.SIGHUP)
            until("the ceiling", lambda: two.ask("a") == "403")
            assert one.ask("b") == two.ask("b") == "200"

            above.write_text("version: 1\npackages: {app: {allow: [network:http]}}\n")
            done = outpass(tmp_path, "reload", OUTPASS_SOCKET=socket)
            assert done.returncode == 2 and "grants app something" in done.stderr, done.stderr
            assert (two.ask("a"), two.ask("b")) == ("403", "200"), "the last good one"
    finally:
        operator.end(signal.SIGKILL)
    refused = outpass(tmp_path, "daemon", "--runtime", str(operator.runtime), "--policy", str(above))
    assert refused.returncode == 125 and "grants app something" in refused.stderr and "Traceback" not in refused.stderr
