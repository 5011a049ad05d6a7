"""`outpass log` as a person and as a script use it: the real command, real files, a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outpass.audit import record, store
from outpass.reasons import Reason

LOG = [sys.executable, "-m", "outpass", "log"]


def a_record(number: int, **changes: Any) -> dict[str, Any]:
    made = record.refusal(
        Reason.BAD_HOST, id=f"r-{number}", time_ms=1_763_770_000_000 + number, jail="j-1", source="gate", status=400
    )
    return {**made, **changes}


def environment(path: Path, **changes: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "TERM", "OUTPASS_STATE"}}
    return {**env, "OUTPASS_STATE": str(path), "TZ": "UTC", "TERM": "xterm", **changes}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = store.Store(tmp_path / "audit.db", now=0.0)
    stripe = {"principal": "stripe", "version": "11.4.0", "chain": ["stripe@11.4.0", "app"], "capability": "network:http"}
    where = {"scheme": "https", "host": "api.stripe.com", "port": 443, "method": "POST", "path": "/v1/charges"}
    log.append(a_record(1, kind="decision", verdict="allow", reason="allowed", **stripe, **where))
    log.append(a_record(2, kind="decision", reason="no_rule", add="stripe: …", **stripe, **where))
    log.append(a_record(3))
    log.close()
    return tmp_path / "audit.db"


def run(path: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LOG, *args], env=environment(path, **env), capture_output=True, text=True, check=False)


JSON: dict[str, tuple[list[str], list[str]]] = {
    "everything": ([], ["r-1", "r-2", "r-3"]),
    "what was denied": (["--denied"], ["r-2", "r-3"]),
    "one package": (["--package", "Stripe"], ["r-1", "r-2"]),
    "the newest": (["-n", "1"], ["r-3"]),
    "all on purpose": (["-n", "0"], ["r-1", "r-2", "r-3"]),
    "the newest denial of one package": (["--denied", "--package", "stripe", "-n", "1"], ["r-2"]),
}


@pytest.mark.parametrize("args,found", JSON.values(), ids=JSON)
def test_json_lines_are_the_records_themselves(args: list[str], found: list[str], path: Path) -> None:
    done = run(path, "--json", *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert [r["id"] for r in map(json.loads, done.stdout.splitlines())] == found
    written = {r["id"]: r for r in store.read(path)}
    assert all(json.loads(line) == written[json.loads(line)["id"]] for line in done.stdout.splitlines())


def test_a_person_sees_a_table_without_colour_in_a_pipe(path: Path) -> None:
    done = run(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:6] == [
        "2025-11-22",
        "00:06:40  allow       stripe@11.4.0           POST https://api.stripe.com/v1/charges",
        "00:06:40  deny        stripe@11.4.0           POST https://api.stripe.com/v1/charges",
        "          no_rule: no rule of the package covers this destination",
        "          network:http, chain stripe@11.4.0 > app",
        "          add: stripe: …",
    ]


def on_a_terminal(path: Path, *args: str, columns: int = 80, **env: str) -> str:
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(LOG[0], [*LOG, *args], environment(path, COLUMNS=str(columns), **env))
    seen = b""
    while True:
        try:
            data = os.read(fd, 4096)
        except OSError:  # EIO: the other side has ended
            break
        if not data:
            break
        seen += data
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return seen.decode()


def test_a_terminal_gets_colour(path: Path) -> None:
    assert "\x1b[31m" in on_a_terminal(path)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_whose_user_wants_none_gets_none(env: dict[str, str], path: Path) -> None:
    assert "\x1b" not in on_a_terminal(path, **env)


def test_the_table_fits_a_terminal_of_eighty_columns(tmp_path: Path) -> None:
    log = store.Store(tmp_path / "audit.db", now=0.0)
    log.append(a_record(1, verdict="allow", scheme="https", host="h", path="/long" * 100, method="GET"))
    log.close()
    shown = on_a_terminal(tmp_path / "audit.db", NO_COLOR="1").splitlines()
    assert max(map(len, shown)) == 80


def test_hostile_text_in_the_file_never_reaches_the_terminal_raw(tmp_path: Path) -> None:
    log = store.Store(tmp_path / "audit.db", now=0.0)
    log.append(a_record(1, principal="\x1b[2J\u202e\x9b31m", host="\x1b]0;x\x07", detail="a\rb", id="\x1b[H"))
    log.close()
    for args in ([], ["--json"]):
        shown = on_a_terminal(tmp_path / "audit.db", *args, NO_COLOR="1")
        assert re.sub(r"[\x20-\x7e\r\n…]", "", shown) == ""
        assert "\r" not in shown.replace("\r\n", "")


def test_no_log_yet_is_said_kindly(tmp_path: Path) -> None:
    done = run(tmp_path / "none.db")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("outpass: nothing recorded yet: ")
    assert not (tmp_path / "none.db").exists()


def test_no_match_is_said_kindly(path: Path) -> None:
    done = run(path, "--package", "numpy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "outpass: no such decision is recorded\n")


def test_a_cut_list_says_so(tmp_path: Path) -> None:
    log = store.Store(tmp_path / "audit.db", now=0.0)
    for n in range(101):
        log.append(a_record(n))
    log.close()
    done = run(tmp_path / "audit.db", "--json")
    assert len(done.stdout.splitlines()) == 100
    assert done.stderr == "outpass: the newest 100 records; all of them: outpass log -n 0\n"


def test_a_file_that_is_no_log_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "audit.db").write_text("hello " * 200)
    done = run(tmp_path / "audit.db")
    assert done.returncode == 125 and done.stdout == ""
    assert done.stderr.startswith("outpass: error: the audit log ") and "outpass: hint: " in done.stderr


def test_another_file_can_be_named(path: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "none.db", "--state", str(path), "--json", "-n", "1")
    assert json.loads(done.stdout)["id"] == "r-3"


def test_a_locale_without_the_letters_is_no_traceback(path: Path) -> None:
    done = run(path, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "add: stripe: \\u2026" in done.stdout


def test_a_reader_that_goes_away_is_no_error(path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -n 1; echo', "sh", *LOG], env=environment(path), capture_output=True, text=True, check=False
    )
    assert (done.stdout.splitlines()[0], done.stderr) == ("2025-11-22", "")


def line_of(child: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert child.stdout is not None
    ready = select.poll()  # not select(): descriptors beyond 1023 are ordinary in a long test run
    ready.register(child.stdout, select.POLLIN)
    assert ready.poll(30_000), "nothing came"
    return dict(json.loads(child.stdout.readline()))


@pytest.mark.parametrize("there_already", [True, False])
def test_following_shows_what_arrives_and_ends_with_control_c(there_already: bool, tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    if there_already:
        log = store.Store(path, now=0.0)
        log.append(a_record(1))
        log.close()
    child = subprocess.Popen(
        [*LOG, "-f", "--json"], env=environment(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    try:
        if there_already:
            assert line_of(child)["id"] == "r-1"
        else:
            assert child.stderr is not None and child.stderr.readline().startswith(b"outpass: nothing recorded yet")
        log = store.Store(path, now=0.0)
        for number in (2, 3):
            log.append(a_record(number))
            assert line_of(child)["id"] == f"r-{number}"
        log.close()
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0
        assert child.stderr is not None and child.stderr.read() == b""
    finally:
        child.kill()
        child.wait()


def test_following_only_denials_skips_the_rest(path: Path) -> None:
    child = subprocess.Popen(
        [*LOG, "-f", "--json", "--denied", "-n", "1"], env=environment(path), stdout=subprocess.PIPE, bufsize=0
    )
    try:
        assert line_of(child)["id"] == "r-3"
        log = store.Store(path, now=0.0)
        log.append(a_record(4, verdict="allow"))
        log.append(a_record(5, verdict="would_deny"))
        assert line_of(child)["id"] == "r-5"
        log.close()
    finally:
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0
