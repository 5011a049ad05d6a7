"""`run` where a shell, a supervisor or a container leaves it: closed descriptors, no directory, odd bytes, few descriptors, a terminal.

Lives here: what the surroundings do to `run`. May not live here: bad command lines and policies (test_cli.py), faults of the daemon
(test_faults.py).
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.support.origin import Origin
from tests.support.runs import OUTPASS, apps, environment
from tests.support.waiting import until

RUN = f"{OUTPASS} run --deny-all --no-jail -q --"


def shell(home: Path, script: str, **extra: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash, in which $RUN is `outpass run` without anything allowed and without a word."""
    env = {**environment(home), "RUN": RUN, **extra}
    return subprocess.run(["bash", "-c", script], cwd=home, env=env, capture_output=True, timeout=90, check=False)


@pytest.mark.parametrize(
    ("sentence", "script", "code", "out", "words"),
    [
        ("stdin is closed", "$RUN echo hi <&-", 0, b"hi\n", b""),
        ("stdout is closed", "$RUN sh -c 'echo hi >&2' >&-", 0, b"", b"hi\n"),
        ("stderr is closed", "$RUN echo hi 2>&-", 0, b"hi\n", b""),
        ("all three are closed", "$RUN sh -c 'echo hi > said' <&- >&- 2>&-; c=$?; cat said; exit $c", 0, b"hi\n", b""),
        (
            "words cannot be written: a full disk",
            f"{OUTPASS} run --deny-all --no-jail -- sh -c 'exit 7' 2> /dev/full",
            7,
            b"",
            b"",
        ),
        (
            "words cannot be written: the reader has gone",
            f"{{ {OUTPASS} run --deny-all --no-jail -- sh -c 'exit 7'; echo $? > code; }} 2>&1 | true; cat code",
            0,
            b"7\n",
            b"",
        ),
        ("bytes that are no text, in CMD", "$RUN printf %s $'\\xff\\xfe'", 0, b"\xff\xfe", b""),
        ("bytes that are no text, in the environment", "export ODD=$'\\xff'; $RUN printenv ODD", 0, b"\xff\n", b""),
        (
            "a directory whose name is no text",
            "mkdir $'d\\xff'; cd $'d\\xff'; $RUN sh -c 'basename \"$PWD\"'",
            0,
            b"d\xff\n",
            b"",
        ),
        ("a directory that is gone", "mkdir d; cd d; rmdir ../d; $RUN echo hi", 125, b"", b"does not exist any more"),
        (
            "a mask that lets everybody in",
            "umask 0; $RUN sh -c umask; stat -c %a state/audit.db run",
            0,
            b"0000\n600\n700\n",
            b"",
        ),
        ("a mask that lets nobody in", "umask 777; $RUN echo hi", 0, b"hi\n", b""),
        ("hardly any descriptors", "ulimit -n 16; $RUN echo hi", 125, b"", b"raise the limit of open files"),
        ("few descriptors", "ulimit -n 48; $RUN echo hi", 0, b"hi\n", b""),
        ("no home", "unset HOME; $RUN echo hi", 0, b"hi\n", b""),
        ("no state to write", "OUTPASS_STATE=/proc/no/audit.db $RUN echo hi", 125, b"", b"/proc/no/audit.db cannot be opened"),
        ("twenty thousand arguments", "$RUN sh -c 'echo $#' $(seq 20000)", 0, b"19999\n", b""),
        ("a policy that is a pipe", f"mkfifo p; {OUTPASS} run --policy p --no-jail -- echo hi", 125, b"", b"not a regular file"),
        ("CMD leaves somebody behind", "$RUN sh -c 'setsid sleep 60 > /dev/null 2>&1 & exit 7'", 7, b"", b""),
        ("CMD is killed", "$RUN sh -c 'kill -9 $$'", 137, b"", b""),
    ],
)
def test_run_in_odd_surroundings(sentence: str, script: str, code: int, out: bytes, words: bytes, tmp_path: Path) -> None:
    done = shell(tmp_path, script)
    said = done.stderr.decode(errors="replace")
    assert (done.returncode, done.stdout) == (code, out), f"{sentence}: {said}"
    assert words in done.stderr, f"{sentence}: {said}"
    assert "Traceback" not in said and "internal" not in said, sentence
    assert not list((tmp_path / "run").glob("run-*")), "nothing is left"
    if code == 125:
        assert said.count("outpass: error:") == 1, f"said once: {said}"


def test_a_path_too_long_for_sockets_is_said_once_with_what_to_set_and_leaves_nothing(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    done = shell(tmp_path, "unset OUTPASS_RUNTIME XDG_RUNTIME_DIR; $RUN echo hi", TMPDIR=str(long))
    said = done.stderr.decode()
    assert done.returncode == 125 and said.count("too long for sockets") == 1 and "OUTPASS_RUNTIME" in said
    assert not [p for p in long.rglob("*") if p.name.startswith("run-")]


def test_many_runs_at_once_share_one_log(tmp_path: Path) -> None:
    script = "for i in 1 2 3 4 5 6; do ( $RUN sh -c 'exit 3' > out.$i 2>&1; echo $? >> codes ) & done; wait; cat out.* codes"
    assert shell(tmp_path, script).stdout == b"3\n" * 6


def test_a_run_within_a_run_works_as_the_inner_one_says(tmp_path: Path) -> None:
    with Origin(("up.example.com",)) as origin:
        gate = " ".join([*origin.connect_to(), "--upstream-ca", str(origin.ca_file)])
        inner = f"{OUTPASS} run --allow app=https://up.example.com --no-jail -q {gate} -- {apps()} ask.py"
        (tmp_path / "ask.py").write_text("import requests; print(requests.get('https://up.example.com/').status_code)")
        done = shell(tmp_path, f"$RUN {inner}")
        assert (done.stdout, done.stderr) == (b"200\n", b"")
        (tmp_path / "start.py").write_text(f"import subprocess; subprocess.run({inner.split()!r})")
        done = shell(tmp_path, f"$RUN {apps()} start.py")
        assert (done.stdout, done.stderr) == (b"200\n", b""), "started by a program with a shim"


def test_a_run_that_is_killed_leaves_nothing_in_the_runtime_directory(tmp_path: Path) -> None:
    command = [*RUN.split(), "sh", "-c", "echo $$; exec sleep 60"]
    process = subprocess.Popen(command, env=environment(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    cmd = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(cmd, signal.SIGKILL)
    end = time.monotonic() + 30
    while list((tmp_path / "run").iterdir()):
        assert time.monotonic() < end, "the daemon ends with its run"
        time.sleep(0.05)


class Terminal:
    """An interactive shell on a terminal of its own."""

    def __init__(self, home: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(home)
            env = {**environment(home), "PS1": "> ", "TERM": "dumb", "RUN": RUN}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], env)
        self.heard = ""
        self.until("> ")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, pattern: str, seconds: float = 30) -> str:
        """Reads up to a match of `pattern` and forgets what came before."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.heard)) is None:
            assert time.monotonic() < end, f"no {pattern!r} in {self.heard!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                self.heard += os.read(self.fd, 4096).decode(errors="replace")
        self.heard = self.heard[found.end() :]
        return found.group()

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def test_on_a_terminal_job_control_interrupts_and_the_window_s_size_are_cmd_s(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        terminal.type("$RUN sh -c 'echo rea''dy $$; exec cat'\n")
        cmd = int(terminal.until(r"ready \d+\r").split()[1])
        terminal.type("one\n")
        terminal.until("one\r\none")
        terminal.type("\x1a")
        terminal.until("Stopped.*\n> ")
        # The shell has seen `run` stop, which it started; CMD may still be waiting for a core, and would read the next line.
        until("CMD has stopped", lambda: Path(f"/proc/{cmd}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        terminal.type("fg\n")
        terminal.until("fg\r\n.*exec cat'")
        terminal.type("two\n")
        terminal.until("two\r\ntwo")
        terminal.type("\x03")
        terminal.until("> ")
        terminal.type("echo code=$?\n")
        assert terminal.until(r"code=\d+") == "code=130"
        terminal.type("$RUN sh -c 'trap \"stty size; exit 4\" WINCH; echo rea''dy; while :; do sleep .1; done'\n")
        terminal.until("ready")
        fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        terminal.until("33 77")
        terminal.until("> ")
        terminal.type("echo code=$?\n")
        assert terminal.until(r"code=\d+") == "code=4"
    finally:
        terminal.close()
