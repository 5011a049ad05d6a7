"""Starting CMD: exit codes, signals, what is inherited. Each case runs in a process of its own, because it forks and waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

RUN = """
import os, sys
from outpass.jail import launch
registered = []
try:
    code = launch.run(sys.argv[1:], os.environ, registered.append)
except launch.NotStarted as failed:
    print(str(failed)); code = failed.code
print(len(registered), flush=True)
sys.exit(code)
"""


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, *command], capture_output=True, text=True, timeout=30, check=False, **options
    )


@pytest.mark.parametrize(
    ("sentence", "command", "code"),
    [
        ("CMD's exit code is ours", ["sh", "-c", "exit 7"], 7),
        ("zero too", ["true"], 0),
        ("a killed CMD is 128 + the signal, as shells say", ["sh", "-c", "kill -TERM $$"], 143),
        ("not found is 127", ["no-such-program-here"], 127),
        ("not executable is 126", ["/etc/hostname"], 126),
        ("a directory is 126", ["/etc"], 126),
    ],
)
def test_exit_codes(sentence: str, command: list[str], code: int) -> None:
    assert run(*command).returncode == code, sentence


def test_cmd_is_registered_before_anything_of_it_runs(tmp_path) -> None:
    script = textwrap.dedent(
        """
        import os, sys, time
        from outpass.jail import launch
        def register(pid):
            time.sleep(0.3)
            assert not os.path.exists(sys.argv[1]), "it ran before it was registered"
        launch.run(["touch", sys.argv[1]], os.environ, register)
        assert os.path.exists(sys.argv[1])
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_failed_registration_starts_nothing(tmp_path) -> None:
    script = textwrap.dedent(
        """
        import os, sys
        from outpass.jail import launch
        def register(pid):
            raise RuntimeError("no")
        try:
            launch.run(["touch", sys.argv[1]], os.environ, register)
        except RuntimeError:
            sys.exit(9)
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False)
    assert done.returncode == 9 and not (tmp_path / "x").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_sent_to_us_reaches_cmd(signum: signal.Signals) -> None:
    trap = f"trap 'exit 42' {signum.name[3:]}; echo up; while :; do sleep 0.05; done"
    process = subprocess.Popen([sys.executable, "-c", RUN, "sh", "-c", trap], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.send_signal(signum)
    assert process.wait(10) == 42


def test_interrupt_from_the_terminal_is_left_to_cmd() -> None:
    trap = "trap 'exit 42' INT; echo up; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "sh", "-c", trap], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) == 42


def test_sigpipe_is_not_ignored_in_cmd() -> None:
    assert run("sh", "-c", "(yes 2>/dev/null; echo $? >&2) | head -1; exit 0").stderr.strip() == "141"


def test_a_cmd_started_deaf_to_hangup_stays_deaf() -> None:
    show = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    done = run(sys.executable, "-c", show, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert done.stdout.splitlines()[0] == "True"


def test_an_ignored_sigchld_that_we_were_started_with_loses_no_exit_code() -> None:
    done = run("sh", "-c", "exit 7", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert done.returncode == 7, done.stderr
