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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.service.upstreams import Upstreams
from tests.support.apps import ROOT, application_venv
from tests.support.jailed import until
from tests.support.runs import OUTPASS, as_user, environment

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


@dataclass
class Shop:
    """How it is started."""

    home: Path
    schema: str
    upstreams: Upstreams
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
        """uvicorn in the jail, published; ended with the block."""
        publish = [] if "--no-jail" in options else ["--publish", "127.0.0.1:0:8000"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = 8000 if publish else free.getsockname()[1]
        command = [*as_user(self.uid), OUTPASS, "run", "--policy", "outpass.yaml", *self.options(), *publish, *options, "--"]
        command += [self.bin("uvicorn"), "shop.web:app", "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
        with (self.home / "said.txt").open("w") as said:
            process = subprocess.Popen(command, cwd=self.project, env=self.env(**env), stdout=said, stderr=said)
        try:
            served = Served(process, self.home / "said.txt", None if publish else port)
            until(lambda: served.ready() or process.poll() is not None, "uvicorn does not start", 60)
            assert process.poll() is None, served.said()
            yield served
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()


@dataclass
class Served:
    """uvicorn behind outpass."""

    process: subprocess.Popen[bytes]
    told: Path
    direct: int | None

    def said(self) -> str:
        """By outpass and uvicorn."""
        return self.told.read_text()

    @property
    def port(self) -> int:
        """Outside of the jail."""
        found = re.search(r"published: 127\.0\.0\.1:(\d+)", self.said())
        return self.direct or (int(found[1]) if found else 0)

    def ready(self) -> bool:
        """Whether it takes requests."""
        return "Application startup complete" in self.said() and bool(self.port)

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
def shop(uid: int) -> Iterator[Shop]:
    """The shop of this user's and everything around it."""
    home = Path(os.path.realpath(tempfile.mkdtemp(prefix="outpass-shop-", dir="/tmp")))
    shutil.copytree(APP, home / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    try:
        with schema() as name, Upstreams() as upstreams:
            made = Shop(home, name, upstreams, uid)
            shutil.copy(upstreams.ca_file, made.ca)
            for path in (home, *home.rglob("*")):
                os.chown(path, uid, uid)
            yield made
    finally:
        shutil.rmtree(home, ignore_errors=True)
