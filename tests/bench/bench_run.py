"""What `outpass run` adds to a command's start: cold (a private daemon) and warm (a daemon at $OUTPASS_SOCKET), jailed and not.

Lives here: whole-process wall and CPU times, interleaved, medians; bwrap with a socat bridge where both are installed, waiting
until the bridge listens, as outpass does. May not live here: anything timed inside outpass.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

OUTPASS = str(Path(sys.executable).parent / "outpass")
ROUNDS = 9
BRIDGE = """socat TCP-LISTEN:3128,fork,reuseaddr "UNIX-CONNECT:$1" & bridge=$!
until grep -q ":0C38 " /proc/net/tcp; do :; done
shift; "$@"; code=$?; kill $bridge; wait $bridge; exit $code"""


@contextlib.contextmanager
def daemon(env: dict[str, str], runtime: Path) -> Iterator[str]:
    """A warm daemon; yields its control socket."""
    runtime.mkdir(mode=0o700)
    process = subprocess.Popen([OUTPASS, "daemon", "--runtime", str(runtime)], env=env, stderr=subprocess.DEVNULL)
    try:
        while not (runtime / "control.sock").exists():
            time.sleep(0.02)
        time.sleep(0.5)
        yield str(runtime / "control.sock")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def seconds(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of one whole process with all that it waited for."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return time.perf_counter() - start, used.ru_utime + used.ru_stime


def bridged(home: str, env: dict[str, str]) -> dict[str, tuple[list[str], dict[str, str]]]:
    """bwrap alone and with its bridge; said when it cannot be had."""
    missing = [name for name in ("bwrap", "socat") if shutil.which(name) is None]
    if missing:
        print(f"bwrap with socat: left out, {' and '.join(missing)} not installed")
        return {}
    bare = ["bwrap", "--unshare-net", "--dev-bind", "/", "/"]
    return {
        "bwrap": ([*bare, "true"], env),
        "bwrap_socat": ([*bare, "sh", "-c", BRIDGE, "sh", f"{home}/bridge.sock", "true"], env),
    }


def run() -> dict[str, float]:
    """Milliseconds of wall and of CPU time, medians of ROUNDS, A B C A B C."""
    with tempfile.TemporaryDirectory() as home:
        env = {k: v for k, v in os.environ.items() if not k.startswith("OUTPASS_")}
        env |= {"OUTPASS_STATE": f"{home}/audit.db", "OUTPASS_RUNTIME": f"{home}/run"}
        wrapped = [OUTPASS, "run", "--deny-all", "--no-jail", "-q", "--", "true"]
        jailed = [word for word in wrapped if word != "--no-jail"]
        with daemon(env, Path(home) / "daemon") as socket:
            warm = {**env, "OUTPASS_SOCKET": socket}
            cases = {
                "true": (["true"], env),
                "python_pass": ([sys.executable, "-c", "pass"], env),
                "outpass_help": ([OUTPASS, "completion", "bash"], env),
                "run_warm": (wrapped, warm),
                "run_cold": (wrapped, env),
                "python_exec": ([sys.executable, "-c", "import os; os.execvp('true', ['true'])"], env),
                "jail_warm": (jailed, warm),
                "jail_cold": (jailed, env),
                **bridged(home, env),
            }
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
            for _ in range(ROUNDS):
                for name, (command, environment) in cases.items():
                    taken[name].append(seconds(command, environment))
    figures = {}
    for name, times in taken.items():
        wall, used = (round(1000 * statistics.median(t[which] for t in times), 1) for which in (0, 1))
        figures |= {f"{name}_ms": wall, f"{name}_cpu_ms": used}
        print(f"  {name:16} {wall:8.1f} ms, {used:8.1f} ms of CPU")
    return figures


if __name__ == "__main__":
    run()
