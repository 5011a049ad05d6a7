"""What a kernel jail adds to starting a command, over plain Python start and exec.

Lives here: whole-process wall and CPU times, A B A B, medians; root and an ordinary user where both can be had. May not live here: the
daemon's share (bench_run), anything timed inside outpass. The gate's side is a socket pair's worth: the door is made up. The user changes after the imports, because the interpreter may lie where only root can read.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 25
ROOT = Path(__file__).resolve().parent.parent.parent
USER = 4242

START = """
import sys, os, ctypes
sys.path[:0] = {path!r}
"""
BECOME = """
if {uid} != os.getuid():
    os.setgroups([]); os.setgid({uid}); os.setuid({uid}); ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
"""
PLAIN = "import os\nos.execv('/bin/true', ['true'])"
FORKED = "import os\npid = os.fork()\npid or os.execv('/bin/true', ['true'])\nos._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
LAUNCH = """
from outpass.jail import host, launch, recipe
from outpass.jail.plan import Door
"""
JAIL = """
request = recipe.JailRequest(cwd="/", private=({runtime!r},))
door = Door("", *(f"{runtime}/" + n for n in ("mint.sock", "ca.pem", "bundle.pem")))
code = launch.run_jailed(["/bin/true"], request, host.look(os.environ), lambda _: os.environ, lambda *_: door, lambda _: None)
os._exit(code)
"""


def seconds(script: str) -> tuple[float, float]:
    """Wall and CPU seconds of one whole process with all that it waited for."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-S", "-E", "-c", script])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.perf_counter() - start, used.ru_utime + used.ru_stime


def of_identity(uid: int, runtime: Path) -> dict[str, float]:
    """Medians in milliseconds, all variants interleaved."""
    path = [str(ROOT / "proxy"), str(ROOT / "client_shim" / "python")]
    start, become = START.format(path=path), BECOME.format(uid=uid)
    variants = {
        "plain": start + become + PLAIN,
        "fork": start + become + FORKED,
        "imports": start + LAUNCH + become + FORKED,
        "jail": start + LAUNCH + become + JAIL.format(runtime=str(runtime)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for script in variants.values():
        seconds(script)  # files into the page cache
    for _ in range(ROUNDS):
        for name, script in variants.items():
            times[name].append(seconds(script))
    walls = {name: statistics.median(wall for wall, _ in found) * 1e3 for name, found in times.items()}
    return walls | {f"{name}_cpu": statistics.median(cpu for _, cpu in found) * 1e3 for name, found in times.items()}


def run() -> dict[str, object]:
    """Prints and returns medians (ms) and what each part adds."""
    results: dict[str, object] = {}
    for name, uid in (("root", 0), ("user", USER)) if os.getuid() == 0 else (("user", os.getuid()),):
        with tempfile.TemporaryDirectory(dir="/tmp") as made:
            runtime = Path(os.path.realpath(made))
            for part in ("mint.sock", "ca.pem", "bundle.pem"):
                (runtime / part).touch()
                os.chown(runtime / part, uid, uid)
            os.chown(runtime, uid, uid)
            medians = of_identity(uid, runtime)
        added = {
            f"{what}{unit}": medians[f"{of}{unit}"] - medians[f"{over}{unit}"]
            for what, of, over in (("imports_add", "imports", "fork"), ("jail_adds", "jail", "imports"))
            for unit in ("", "_cpu")
        }
        results[name] = {k: round(v, 2) for k, v in (medians | added).items()}
        print(f"{name}: {results[name]}")
    return results
