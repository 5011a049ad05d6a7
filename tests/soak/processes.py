"""The daemon and its gates under soak, as processes: started, told to reload, killed, and looked into.

Lives here: processes and what they hold (memory, descriptors, asyncio tasks). May not live here: load, judgement.

They run in a virtualenv of the soak's own, over outpass's, whose only file is a probe: on SIGUSR2 it writes the number of asyncio
tasks and the memory (RSS), and then gives the kernel back what the allocator merely keeps (malloc_trim(3)): what is left is held by
somebody. So what is measured is the product, unchanged.
"""

from __future__ import annotations

import json
import os
import random
import signal
import site
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.daemon import is_gate
from tests.support.proc import below, command_of
from tests.support.runs import environment
from tests.support.waiting import until

PROBE = """
import asyncio, collections, ctypes, gc, json, os, signal, sys
def _rss():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
def _tell(*_):
    kept = _rss()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    loop = asyncio.events._get_running_loop()
    tasks = asyncio.all_tasks(loop) if loop else set()
    names = collections.Counter(t.get_coro().__qualname__ for t in tasks)
    with open(f"{os.environ['SOAK_PROBE']}/{os.getpid()}.tmp", "w") as out:
        json.dump({"kept": kept, "rss": _rss(), "blocks": sys.getallocatedblocks(), "tasks": len(tasks), "names": names}, out)
    os.rename(out.name, out.name.replace(".tmp", ".json"))
if "SOAK_PROBE" in os.environ:
    signal.signal(signal.SIGUSR2, _tell)
"""


class Held(NamedTuple):
    """What a process holds."""

    kept_kib: int
    """RSS as it was found."""
    rss_kib: int
    """After the allocator gave back what nobody uses."""
    blocks: int
    """Pieces of memory that Python objects hold (sys.getallocatedblocks)."""
    descriptors: int
    tasks: int
    names: dict[str, int]


def interpreter(where: Path) -> Path:
    """A Python that has outpass and the probe."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", where], check=True)
    packages = next((where / "lib").glob("python3.*/site-packages"))
    (packages / "soak_probe.py").write_text(PROBE)
    real = [p for p in site.getsitepackages() if p.startswith(sys.prefix)]
    adding = "; ".join(f"site.addsitedir({p!r})" for p in real)
    (packages / "soak.pth").write_text(f"import site; {adding}; import soak_probe\n")
    return where / "bin" / "python"


class Daemon:
    """`outpass daemon`, and the gates that it supervises."""

    def __init__(self, home: Path, python: Path, options: Sequence[str]) -> None:
        self.home = home
        self.python = python
        self._options = options
        self.runtime = home / "runtime"
        self.probes = home / "probes"
        self.errors = home / "daemon.txt"
        self.env = environment(home, OUTPASS_SOCKET=str(self.runtime / "control.sock"), SOAK_PROBE=str(self.probes))

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self.runtime.mkdir(mode=0o700, exist_ok=True)
        self.probes.mkdir(exist_ok=True)
        control = self.runtime / "control.sock"
        control.unlink(missing_ok=True)
        command = [str(self.python), "-m", "outpass", "daemon", "--runtime", str(self.runtime), *self._options]
        with self.errors.open("ab") as said:
            self.process = subprocess.Popen(command, env=self.env, stderr=said, cwd=self.home)
        until("the daemon serves", control.exists)
        until("there is a gate", self.gates)

    def broker(self) -> int:
        """Pid of the broker: the process started, or the one that it became the parent of."""
        return next((pid for pid in below(self.process.pid) if "outpass.broker" in command_of(pid)), self.process.pid)

    def gates(self) -> list[int]:
        """Pids of the gates that run now."""
        return [pid for pid in below(self.process.pid) if is_gate(pid)]

    def kill_gate(self, rng: random.Random) -> float:
        """SIGKILL to one of the gates; when that was (Unix time)."""
        gates = self.gates()
        if gates:
            os.kill(rng.choice(gates), signal.SIGKILL)
        return time.time()

    def kill(self) -> float:
        """SIGKILL to the whole of it."""
        for pid in (self.broker(), self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(30)
        return time.time()

    def end(self) -> int:
        """SIGTERM: drain and end."""
        self.process.terminate()
        return self.process.wait(60)

    def reload(self) -> int:
        """`outpass reload`; its exit code."""
        command = [str(self.python), "-m", "outpass", "reload"]
        return subprocess.run(command, env=self.env, capture_output=True, check=False, timeout=60).returncode

    def held(self) -> dict[str, Held]:
        """What broker and gates hold now."""
        gates = {f"gate {number}": self._look(pid) for number, pid in enumerate(until("there is a gate", self.gates), 1)}
        return {"broker": self._look(self.broker()), **gates}

    def _look(self, pid: int) -> Held:
        told = self.probes / f"{pid}.json"
        told.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR2)
        until(f"process {pid} answers its probe", told.exists)
        found = json.loads(told.read_text())
        return Held(
            found["kept"], found["rss"], found["blocks"], len(os.listdir(f"/proc/{pid}/fd")), found["tasks"], found["names"]
        )
