"""An operator's daemon that can be started again, and programs that run under it and ask what they are told to.

Lives here: starting, asking, ending. May not live here: assertions about what is answered.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.origin import Origin
from tests.support.runs import OUTPASS, apps, environment
from tests.support.waiting import until

POLICY = """version: 1
include: [preset:http-clients]
packages:
  app: {allow: [network:http, network:listen], http: ["https://up.example.com/**"], listen: ["8000"]}
  "exe:curl": {allow: [network:http], http: ["https://up.example.com/old"]}
"""
SCRIPT = """
import os, socket, subprocess, sys, time, requests

session = requests.Session()

def ask(word):
    try:
        return session.get(f"https://up.example.com/{word}", timeout=20).status_code
    except Exception as e:
        return repr(e)[-300:]

def child(word):
    code = "import requests; print(requests.get('https://up.example.com/child', timeout=20).status_code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or done.stderr[-300:]

def serve(word):
    import http.server, threading
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "serves"

def shell(word):  # started long ago: its spawn pass is the first daemon's
    old.stdin.write("go\\n"); old.stdin.flush()
    return old.stdout.readline().strip()

old = subprocess.Popen(["sh", "-c", "read x; exec curl -sS -o /dev/null -w '%{http_code}\\n' https://up.example.com/old 2>&1"],
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for line in sys.stdin:
    word = line.strip()
    print({"child": child, "shell": shell, "serve": serve}.get(word, ask)(word), flush=True)
"""


class Operator:
    """Somebody who starts daemons at one place."""

    def __init__(self, home: Path, origin: Origin, *options: str) -> None:
        self.home = home
        self.runtime = home / "daemon"
        self.runtime.mkdir(mode=0o700)
        self._options = [*origin.connect_to(), "--upstream-ca", str(origin.ca_file), "--gates", "1", *options]
        self.process: subprocess.Popen[bytes] | None = None
        self.said = home / "daemon.txt"

    def start(self) -> None:
        command = [OUTPASS, "daemon", "--runtime", str(self.runtime), *self._options]
        with self.said.open("ab") as said:
            self.process = process = subprocess.Popen(command, env=environment(self.home), stderr=said)
        until("a daemon", lambda: (self.runtime / "control.sock").exists() or process.poll() is not None)
        assert process.poll() is None, self.said.read_text()

    def end(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(30)


class Program:
    """A run that asks what it is told to, one word a line."""

    def __init__(self, process: subprocess.Popen[str], project: Path) -> None:
        self.process = process
        self.project = project
        self.errors = project / "errors.txt"

    def ask(self, word: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def until_said(self, words: str) -> None:
        until(words, lambda: words in self.errors.read_text())

    def finish(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0, self.errors.read_text()
        return self.errors.read_text()


@contextlib.contextmanager
def running(operator: Operator, jail: list[str], *options: str, name: str = "project") -> Iterator[Program]:
    project = operator.home / name
    project.mkdir()
    (project / "main.py").write_text(SCRIPT)
    (project / "outpass.yaml").write_text(POLICY)
    env = environment(operator.home, OUTPASS_SOCKET=str(operator.runtime / "control.sock"))
    command = [OUTPASS, "run", "--policy", "outpass.yaml", *jail, *options, "--", str(apps()), "main.py"]
    with (project / "errors.txt").open("w") as errors:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True}
        process = subprocess.Popen(command, cwd=project, env=env, **pipes)
    try:
        yield Program(process, project)
    finally:
        process.kill()
        process.wait()
