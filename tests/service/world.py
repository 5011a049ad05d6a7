"""The shop in a directory of its own, a schema of its own in PostgreSQL, its upstreams, and `outpass run` in front of it.

Lives here: what `make service` and the benchmark start. May not live here: assertions about what came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.support.apps import ROOT, application_venv
from tests.support.runs import OUTPASS, as_user, environment
from tests.support.waiting import until

APP = Path(__file__).resolve().parent / "app"
DATABASE = "db.shop.internal"
SERVER = ("127.0.0.1", 5432)
_SCHEMA = (
    "import psycopg, sys; psycopg.connect('host=%s port=%s user=postgres dbname=test', autocommit=True).execute(sys.argv[1])"
)


def python() -> Path:
    """The interpreter of the shop's virtualenv (constraints/service.txt)."""
    return application_venv(ROOT / ".venv-service", ROOT / "constraints" / "service.txt")


def database() -> bool:
    """Whether there is a PostgreSQL to keep orders in."""
    with socket.socket() as sock:
        return sock.connect_ex(SERVER) == 0


def url(host: str, schema: str) -> str:
    """Of the shop's tables."""
    return f"postgresql+psycopg://postgres@{host}:5432/test?options=-csearch_path%3D{schema}"


@contextlib.contextmanager
def schema() -> Iterator[str]:
    """A schema that nobody else has, dropped with the block."""
    name = f"shop_{uuid.uuid4().hex[:12]}"
    script = [str(python()), "-c", _SCHEMA % SERVER]
    subprocess.run([*script, f"create schema {name}"], check=True)
    try:
        yield name
    finally:
        subprocess.run([*script, f"drop schema {name} cascade"], check=True)


class Around(Protocol):
    """An origin that stands for every host of the policy."""

    ca_file: Path

    def connect_to(self) -> list[str]:
        """Options of `outpass run`."""
        ...


@dataclass
class Shop[Origin: Around]:
    """How it is started."""

    home: Path
    schema: str
    upstreams: Origin
    uid: int

    @property
    def project(self) -> Path:
        """Where it lies."""
        return self.home / "shop"

    @property
    def ca(self) -> Path:
        """Of the upstreams' certificates."""
        return self.home / "upstreams.pem"

    def options(self) -> list[str]:
        """Where the gate finds the hosts of the policy."""
        found = [*self.upstreams.connect_to(), "--upstream-ca", str(self.ca)]
        return [*found, "--connect-to", f"{DATABASE}:5432:{SERVER[0]}:{SERVER[1]}"]

    def env(self, **more: str) -> dict[str, str]:
        """Of whoever runs outpass."""
        return environment(self.home, **{"DATABASE_URL": url(DATABASE, self.schema), **more})

    def bin(self, program: str) -> str:
        """A program of the shop's virtualenv."""
        return str(python().parent / program)

    def run(self, command: Sequence[str], *options: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`outpass run` to its end."""
        return self.outpass("run", "--policy", "outpass.yaml", *self.options(), *options, "--", *command, **env)

    def outpass(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Any command of outpass, by the shop's user."""
        return subprocess.run(
            [*as_user(self.uid), OUTPASS, *args],
            cwd=self.project, env=self.env(**env), capture_output=True, text=True, timeout=110, check=False,
        )  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """The audit log, oldest first."""
        return [json.loads(line) for line in self.outpass("log", "--json", "-n", "100000").stdout.splitlines()]

    @contextlib.contextmanager
    def served(self, *options: str, **env: str) -> Iterator[Served]:
        """uvicorn behind outpass, in the jail and published, or with `--no-jail`; ended with the block."""
        outpass = [*as_user(self.uid), OUTPASS, "run", "--policy", "outpass.yaml", *self.options()]
        if "--no-jail" in options:
            port = _free()
            with self._uvicorn([*outpass, *options, "--"], port, lambda _: port, env) as made:
                yield made
        else:
            publish = ["--publish", "127.0.0.1:0:8000", *options, "--"]
            with self._uvicorn([*outpass, *publish], 8000, _published, env) as made:
                yield made

    @contextlib.contextmanager
    def plain(self, **env: str) -> Iterator[Served]:
        """uvicorn without outpass."""
        port = _free()
        with self._uvicorn(as_user(self.uid), port, lambda _: port, env) as made:
            yield made

    @contextlib.contextmanager
    def _uvicorn(self, before: list[str], port: int, outside: Callable[[str], int], env: Mapping[str, str]) -> Iterator[Served]:
        command = [*before, self.bin("uvicorn"), "shop.web:app", "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
        told = self.home / f"said-{uuid.uuid4().hex[:8]}.txt"
        with told.open("w") as said:
            process = subprocess.Popen(command, cwd=self.project, env=self.env(**env), stdout=said, stderr=said)
        try:
            ready = lambda: "Application startup complete" in told.read_text() and outside(told.read_text())  # noqa: E731
            until("uvicorn does not start", lambda: ready() or process.poll() is not None, 60)
            assert process.poll() is None, told.read_text()
            yield Served(process, told, outside(told.read_text()))
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _published(said: str) -> int:
    found = re.search(r"published: 127\.0\.0\.1:(\d+)", said)
    return int(found[1]) if found else 0


@dataclass
class Served:
    """A uvicorn that takes requests."""

    process: subprocess.Popen[bytes]
    told: Path
    port: int
    """Outside of the jail."""

    def said(self) -> str:
        """By outpass and uvicorn."""
        return self.told.read_text()

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """Status and body of a GET, or of a POST of JSON."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(asked, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as e:
            return e.code, e.read()


@contextlib.contextmanager
def shop[Origin: Around](uid: int, around: contextlib.AbstractContextManager[Origin]) -> Iterator[Shop[Origin]]:
    """The shop of this user's, and everything around it."""
    home = Path(os.path.realpath(tempfile.mkdtemp(prefix="outpass-shop-", dir="/tmp")))
    shutil.copytree(APP, home / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    try:
        with schema() as name, around as upstreams:
            made = Shop(home, name, upstreams, uid)
            shutil.copy(upstreams.ca_file, made.ca)
            for path in (home, *home.rglob("*")):
                os.chown(path, uid, uid)
            yield made
    finally:
        shutil.rmtree(home, ignore_errors=True)
