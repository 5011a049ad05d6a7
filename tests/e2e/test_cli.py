"""The command line as a user meets it: exit codes, words, and what bad input gets. No traceback, ever."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from outpass import __version__
from tests.support.runs import environment, outpass

GOOD = 'version: 1\npackages:\n  stripe: {allow: [network:http], http: ["https://api.stripe.com/v1/**"]}\n'


def project(home: Path, text: str = GOOD, name: str = "outpass.yaml") -> Path:
    where = home / "project"
    where.mkdir(parents=True, exist_ok=True)
    (where / name).write_text(text)
    return where


def polite(text: str) -> None:
    assert "Traceback" not in text
    for line in text.splitlines():
        assert line.startswith("outpass: "), line


@pytest.mark.parametrize(
    ("sentence", "args", "code", "words"),
    [
        ("CMD's exit code is run's", ["run", "--deny-all", "--no-jail", "-q", "--", "sh", "-c", "exit 3"], 3, ""),
        ("CMD not found is 127", ["run", "--deny-all", "--no-jail", "-q", "--", "no-such-cmd"], 127, "no-such-cmd: no such file"),
        ("CMD not executable is 126", ["run", "--deny-all", "--no-jail", "-q", "--", "/etc"], 126, "permission denied"),
        (
            "the jail is the default",
            ["run", "--deny-all", "-q", "--", "sh", "-c", "grep -q 'Seccomp:.2' /proc/self/status"],
            0,
            "",
        ),
        ("no policy refuses to start", ["run", "--no-jail", "--", "true"], 125, "no policy"),
        (
            "two policies are a usage error",
            ["run", "--deny-all", "--allow", "https://a.example", "--no-jail", "--", "true"],
            125,
            "exclude",
        ),
        ("a missing policy file", ["run", "--policy", "gone.yaml", "--no-jail", "--", "true"], 125, "gone.yaml"),
        ("a bad --allow pattern", ["run", "--allow", "https://*/x", "--no-jail", "--", "true"], 125, "outpass: error"),
        ("no CMD", ["run", "--deny-all", "--no-jail"], 125, "missing argument"),
        ("an unknown option of run", ["run", "--nope", "--", "true"], 125, "no such option"),
        ("an unknown command", ["rum"], 2, "no such command"),
        (
            "an unreadable CA",
            ["run", "--deny-all", "--no-jail", "--upstream-ca", "/nowhere/ca.pem", "--", "true"],
            125,
            "/nowhere/ca.pem",
        ),
        (
            "a CA that is not one",
            ["run", "--deny-all", "--no-jail", "--upstream-ca", "/etc/hostname", "--", "true"],
            125,
            "/etc/hostname",
        ),
        ("a bad --connect-to", ["run", "--deny-all", "--no-jail", "--connect-to", "x", "--", "true"], 125, "connect-to"),
        ("check of a missing file", ["check", "gone.yaml"], 2, "gone.yaml"),
        ("explain of something that is no URL", ["explain", "stripe", "not a url"], 2, "outpass: hint"),
        ("reload without a daemon to tell", ["reload"], 2, "OUTPASS_SOCKET"),
    ],
)
def test_exit_codes_and_words(sentence: str, args: list[str], code: int, words: str, tmp_path: Path) -> None:
    if args[0] == "explain":
        project(tmp_path)
        args = ["explain", "--policy", str(tmp_path / "project" / "outpass.yaml"), *args[1:]]
    done = outpass(tmp_path, *args)
    assert done.returncode == code, f"{sentence}: {done.stderr}"
    assert words in done.stderr, f"{sentence}: {done.stderr}"
    polite(done.stderr)


@pytest.mark.parametrize(
    ("sentence", "text", "words"),
    [
        ("an empty file", "", "empty"),
        ("not YAML", "version: [1\n", ":"),
        ("an unknown key", "version: 1\npackges: {}\n", "packages"),
        ("an unknown version", "version: 7\n", "version"),
        ("secrets are not built yet", "version: 1\nsecrets: {}\n", "secrets"),
        (
            "a limit that is none",
            GOOD.replace(
                'http: ["https://api.stripe.com/v1/**"]', 'http: [{url: "https://api.stripe.com/v1/**", limits: {rps: 0}}]'
            ),
            "rps: 0",
        ),
    ],
)
def test_a_bad_policy_starts_nothing_and_says_where(sentence: str, text: str, words: str, tmp_path: Path) -> None:
    where = project(tmp_path, text)
    ran = outpass(tmp_path, "run", "--policy", "outpass.yaml", "--no-jail", "--", "touch", "ran", cwd=where)
    checked = outpass(tmp_path, "check", "outpass.yaml", cwd=where)
    assert (ran.returncode, checked.returncode) == (125, 2), f"{sentence}: {ran.stderr}{checked.stderr}"
    assert not (where / "ran").exists()
    for done in (ran, checked):
        assert words in done.stderr and "outpass.yaml:" in done.stderr, f"{sentence}: {done.stderr}"
        polite(done.stderr)


def test_a_policy_found_in_a_project_needs_trust_and_loses_it_when_it_changes(tmp_path: Path) -> None:
    where = project(tmp_path)
    run = ("run", "--no-jail", "-q", "--", "true")
    first = outpass(tmp_path, *run, cwd=where)
    assert first.returncode == 125 and "outpass trust" in first.stderr
    assert outpass(tmp_path, "trust", cwd=where).returncode == 0
    assert outpass(tmp_path, *run, cwd=where).returncode == 0
    project(tmp_path, GOOD + "# changed\n")
    again = outpass(tmp_path, *run, cwd=where)
    assert again.returncode == 125 and "not trusted" in again.stderr


@pytest.mark.parametrize(
    ("sentence", "args", "code", "verdict"),
    [
        ("the rule covers it", ["stripe,app", "GET", "https://api.stripe.com/v1/charges"], 0, "allow"),
        ("GET is the default", ["stripe", "https://api.stripe.com/v1/charges"], 0, "allow"),
        ("another path", ["stripe", "https://api.stripe.com/v2/charges"], 1, "deny"),
        ("another package", ["left-pad,app", "GET", "https://api.stripe.com/v1/charges"], 1, "deny"),
        ("a caller in between without rights", ["stripe,left-pad,app", "https://api.stripe.com/v1/charges"], 1, "deny"),
    ],
)
def test_explain_says_what_the_gate_would(sentence: str, args: list[str], code: int, verdict: str, tmp_path: Path) -> None:
    where = project(tmp_path)
    done = outpass(tmp_path, "explain", "--policy", "outpass.yaml", "--json", *args, cwd=where)
    assert done.returncode == code, f"{sentence}: {done.stderr}"
    told = json.loads(done.stdout)
    assert told["schema"] == "outpass.explain/1" and told["verdict"] == verdict, sentence
    plain = outpass(tmp_path, "explain", "--policy", "outpass.yaml", *args, cwd=where)
    assert plain.stdout.strip() and "\033" not in plain.stdout


def test_explain_says_when_a_proxy_of_the_environment_would_resolve_the_name(tmp_path: Path) -> None:
    where = project(tmp_path)
    ask = ("explain", "--policy", "outpass.yaml", "stripe", "https://api.stripe.com/v1/charges")
    env = {"https_proxy": "http://ada:secret@proxy.corp:3128", "no_proxy": "corp"}
    told = outpass(tmp_path, *ask, cwd=where, **env)
    assert told.returncode == 0 and "secret" not in told.stdout, told.stderr
    line = "  through: http://proxy.corp:3128 (from $HTTPS_PROXY): it resolves the name, so the address is not checked"
    assert told.stdout.splitlines()[-1] == line


def test_check_reports_every_fault_as_json(tmp_path: Path) -> None:
    where = project(tmp_path, "version: 1\npackges: {}\nmode: maybe\n")
    done = outpass(tmp_path, "check", "--json", "outpass.yaml", cwd=where)
    told = json.loads(done.stdout)
    assert done.returncode == 2 and told["schema"] == "outpass.check/1"
    assert {f["line"] for f in told["findings"]} == {2, 3}


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = outpass(tmp_path, "run", "--deny-all", "--no-jail", "--port", port, "--", "true")
    assert done.returncode == 125 and "in use" in done.stderr and port in done.stderr
    polite(done.stderr)


def test_a_daemon_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = outpass(tmp_path, "run", "--deny-all", "--no-jail", "--", "true", OUTPASS_SOCKET=str(tmp_path / "no.sock"))
    assert done.returncode == 125 and "no daemon at" in done.stderr
    polite(done.stderr)


def test_a_runtime_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    os.chmod(tmp_path / "run", 0o755)
    done = outpass(tmp_path, "run", "--deny-all", "--no-jail", "--", "true")
    assert done.returncode == 125 and "nobody else can enter" in done.stderr


def test_version_help_and_completion(tmp_path: Path) -> None:
    assert outpass(tmp_path, "--version").stdout.strip() == f"outpass {__version__}"
    shown = outpass(tmp_path, "--help").stdout
    for name in ("run", "explain", "check", "trust", "log", "daemon", "reload", "completion"):
        assert f"\n  {name} " in shown
        assert outpass(tmp_path, name, "--help").returncode == 0
    for shell in ("bash", "zsh", "fish"):
        assert "_OUTPASS_COMPLETE" in outpass(tmp_path, "completion", shell).stdout


def test_nothing_of_outpass_is_left_behind_in_the_runtime_directory(tmp_path: Path) -> None:
    assert outpass(tmp_path, "run", "--deny-all", "--no-jail", "-q", "--", "true").returncode == 0
    assert list((tmp_path / "run").iterdir()) == []


def test_the_environment_of_the_tests_names_no_daemon(tmp_path: Path) -> None:
    assert not [k for k in environment(tmp_path) if k.startswith("OUTPASS_") and k not in ("OUTPASS_STATE", "OUTPASS_RUNTIME")]
