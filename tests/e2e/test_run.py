"""What `run` itself promises beside the gate: the allowlist in the start command, audit mode, the summary, what the log says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.origin import Origin
from tests.support.runs import outpass, run_script

ASK = 'import requests\nfor n in range(3):\n    print("status", requests.get("https://up.example.com/x?token=secret").status_code)\n'


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(("up.example.com",)) as running:
        yield running


def gate(origin: Origin) -> list[str]:
    return [*origin.connect_to(), "--upstream-ca", str(origin.ca_file)]


@pytest.mark.parametrize(
    ("sentence", "options", "status"),
    [
        ("a URL for any package", ["--allow", "https://up.example.com/**"], 200),
        ("a URL for the application", ["--allow", "app=https://up.example.com/x"], 200),
        ("a URL for somebody else", ["--allow", "stripe=https://up.example.com/**"], 403),
        ("two URLs", ["--allow", "https://a.example.com", "--allow", "https://up.example.com"], 200),
        ("another path", ["--allow", "https://up.example.com/y"], 403),
        ("another method", ["--allow", "POST https://up.example.com/x"], 403),
        ("nothing", ["--deny-all"], 403),
        ("nothing, in audit mode", ["--deny-all", "--audit"], 200),
    ],
)
def test_the_allowlist_in_the_start_command(
    sentence: str, options: list[str], status: int, origin: Origin, tmp_path: Path
) -> None:
    before = len(origin.seen)
    run = run_script(tmp_path, ASK, *options, *gate(origin))
    assert run.out == f"status {status}\n" * 3, f"{sentence}: {run.said()}"
    assert len(origin.seen) - before == (3 if status == 200 else 0), sentence


def test_audit_mode_lets_through_and_says_what_it_would_have_denied(origin: Origin, tmp_path: Path) -> None:
    run = run_script(tmp_path, ASK, "--deny-all", "--audit", *gate(origin))
    assert [(r["verdict"], r["reason"]) for r in run.records] == [("would_deny", "no_capability")] * 3, run.said()
    assert "3 would have been denied" in run.err and "to allow it, add:" in run.err


def test_the_summary_counts_and_names_the_lines_to_add_also_when_cmd_fails(origin: Origin, tmp_path: Path) -> None:
    script = ASK + "raise SystemExit(5)"
    run = run_script(tmp_path, script, "--deny-all", "--summary", "summary.json", "-q", *gate(origin))
    told = json.loads((tmp_path / "project" / "summary.json").read_text())
    assert run.code == 5 and run.err == ""
    assert (told["schema"], told["exit"], told["decisions"], told["denied"], told["allowed"]) == ("outpass.summary/1", 5, 3, 3, 0)
    assert len(told["denials"]) == 1 and told["denials"][0]["count"] == 3
    assert "https://up.example.com/x" in told["lines"][0] and "secret" not in json.dumps(told)
    run_script(tmp_path, script, "--deny-all", "--summary", "summary.md", "-q", *gate(origin))
    assert "```yaml" in (tmp_path / "project" / "summary.md").read_text()


def test_the_line_to_add_is_the_line_that_allows_it(origin: Origin, tmp_path: Path) -> None:
    """What the refusal says, pasted into a policy, allows exactly the request that was refused."""
    run_script(tmp_path, ASK, "--deny-all", "--summary", "summary.json", *gate(origin))
    line = json.loads((tmp_path / "project" / "summary.json").read_text())["lines"][0]
    policy = f"version: 1\ninclude: [preset:http-clients]\n{line}\n"
    again = run_script(tmp_path, ASK, *gate(origin), policy=policy)
    assert again.out == "status 200\n" * 3, again.said()
    elsewhere = run_script(tmp_path, ASK.replace("/x?", "/y?"), *gate(origin), policy=policy)
    assert elsewhere.out == "status 403\n" * 3, elsewhere.said()


SEVERAL = """
import subprocess, sys, requests
for url in ("https://up.example.com/x", "https://up.example.com/y?token=secret"):
    print(requests.get(url).status_code)
print(requests.post("https://up.example.com/x", data=b"x").status_code)
"""


@pytest.mark.parametrize("base", ["--deny-all", "version: 1\ninclude: [preset:http-clients]\npackages: {app: {allow: []}}\n"])
def test_what_an_audit_run_suggests_lets_the_same_run_through_in_enforce_mode(base: str, origin: Origin, tmp_path: Path) -> None:
    options, policy = ([base], None) if base.startswith("--") else ([], base)
    audited = run_script(tmp_path, SEVERAL, *options, "--audit", "--summary", "next.yaml", *gate(origin), policy=policy)
    assert audited.out == "200\n" * 3 and {r["verdict"] for r in audited.records} == {"would_deny"}, audited.said()
    enforced = run_script(tmp_path, SEVERAL, "--policy", "next.yaml", "--summary", "-", *gate(origin))
    out, _, told = enforced.out.partition("{")
    assert out == "200\n" * 3, enforced.said() + (tmp_path / "project" / "next.yaml").read_text()
    summary = json.loads("{" + told)
    assert (summary["exit"], summary["complete"], summary["allowed"], summary["denied"], summary["would_deny"]) == (
        0,
        True,
        3,
        0,
        0,
    )
    another = run_script(tmp_path, SEVERAL.replace("/y", "/z"), "--policy", "next.yaml", *gate(origin))
    assert another.out == "200\n403\n200\n", "what was not seen is not granted"
    checked = outpass(tmp_path, "check", "next.yaml", cwd=tmp_path / "project")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("sentence", "command", "code"),
    [
        ("CMD fails", "exit 7", 7),
        ("CMD is killed", "kill -9 $$", 137),
        ("CMD runs out of time, and timeout asks run to end it", "kill $PPID; sleep 60", 143),
        ("CMD is not found", None, 127),
    ],
)
def test_the_summary_is_written_however_cmd_ends(sentence: str, command: str | None, code: int, tmp_path: Path) -> None:
    asked = ["sh", "-c", command] if command else ["no-such-command"]
    done = outpass(tmp_path, "run", "--deny-all", "--no-jail", "-q", "--summary", "s.json", "--", *asked)
    told = json.loads((tmp_path / "s.json").read_text())
    assert (done.returncode, told["exit"], told["complete"]) == (code, code, True), f"{sentence}: {done.stderr}"


def test_a_summary_that_nobody_could_count_says_so(tmp_path: Path) -> None:
    kill = "for p in $(cat /proc/$PPID/task/$PPID/children); do [ $p = $$ ] || kill -9 $p; done; exit 3"
    done = outpass(tmp_path, "run", "--deny-all", "--no-jail", "-q", "--summary", "s.json", "--", "sh", "-c", kill)
    told = json.loads((tmp_path / "s.json").read_text())
    assert (done.returncode, told) == (3, {"schema": "outpass.summary/1", "exit": 3, "complete": False}), done.stderr
    assert "daemon" in done.stderr


def test_an_unwritable_summary_is_said_and_does_not_hide_cmd(tmp_path: Path) -> None:
    done = outpass(tmp_path, "run", "--deny-all", "--no-jail", "-q", "--summary", "/nowhere/x.json", "--", "true")
    assert done.returncode == 125 and "cannot write the summary" in done.stderr and "Traceback" not in done.stderr


def test_the_log_by_package_and_by_verdict(origin: Origin, tmp_path: Path) -> None:
    run_script(tmp_path, ASK, "--deny-all", *gate(origin))
    run_script(tmp_path, ASK, "--allow", "https://up.example.com", *gate(origin))
    denied = outpass(tmp_path, "log", "--denied", "--json").stdout.splitlines()
    everything = outpass(tmp_path, "log", "--json").stdout.splitlines()
    assert (len(denied), len(everything)) == (3, 6)
    assert outpass(tmp_path, "log", "--package", "stripe", "--json").stdout == ""
    plain = outpass(tmp_path, "log").stdout
    assert "\033" not in plain and "secret" not in plain and "token=…" in plain
