"""Unmodified database clients in a jail, against the real servers of this machine: charged to the right package, or refused.

The servers are on the host's loopback, which has a name inside: `host.outpass.internal`. Skipped where there is no server.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, daemon
from tests.support.databases import clients
from tests.support.enclosed import Enclosure, enclosure, possible

HOST = "host.outpass.internal"


def listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


postgres = pytest.mark.skipif(not listening(5432), reason="no PostgreSQL on 127.0.0.1:5432")
redis = pytest.mark.skipif(not listening(6379), reason="no Redis on 127.0.0.1:6379")

POLICY = f"""
version: 1
packages:
  app: {{allow: [network:socket], socket: ["{HOST}:5555"]}}
  psycopg2-binary: {{allow: [network:socket], socket: ["{HOST}:5432"]}}
  psycopg: {{allow: [network:socket], socket: ["{HOST}:5432"]}}
  redis: {{allow: [network:socket], socket: [{{to: "{HOST}:6379"}}]}}
  "exe:psql": {{allow: [network:socket], socket: ["{HOST}:5432"]}}
  "exe:redis-cli": {{allow: [network:socket], socket: ["{HOST}:6379"]}}
"""


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("databases")


@pytest.fixture(scope="module")
def outpassd(where: Path):
    if not possible():
        pytest.skip("no network namespace can be made here")
    with daemon(where) as started:
        yield started


@pytest.fixture(scope="module")
def jail(outpassd: RunningDaemon, where: Path):
    with enclosure(outpassd, POLICY, where, forward=[5432, 6379]) as made:
        yield made


def app(jail: Enclosure, where: Path, script: str, *needs: str) -> str:
    """Run a script with the shim; what it printed."""
    path = where / "main.py"
    path.write_text(script)
    done = jail.run(str(clients(*needs)), str(path), shim=True)
    return done.stdout + done.stderr


PSYCOPG = """
import psycopg
with psycopg.connect(host="%s", port=5432, user="postgres", dbname="postgres", connect_timeout=10) as db:
    print(db.execute("select 6 * 7").fetchone())
"""


@postgres
def test_psycopg_resolves_in_python_and_connects_in_c_and_is_charged(jail: Enclosure, where: Path) -> None:
    """libpq's own connect() goes to an address that stands for psycopg's chain."""
    assert "(42,)" in app(jail, where, PSYCOPG % HOST, "psycopg[binary]")
    (*_, record) = jail.records(host=HOST, port=5432, kind="decision", verdict="allow")
    assert (record["principal"], record["chain"][0].split("@")[0], record["source"]) == ("psycopg", "psycopg", "gate")
    closed = jail.records(host=HOST, port=5432, kind="close")[-1]
    assert closed["bytes_out"] > 0 and closed["bytes_in"] > 0


@postgres
def test_psycopg_without_the_right_does_not_get_there(outpassd: RunningDaemon, where: Path) -> None:
    policy = POLICY.replace(f'psycopg: {{allow: [network:socket], socket: ["{HOST}:5432"]}}', "psycopg: {allow: []}")
    with enclosure(outpassd, policy, where) as jail:
        said = app(jail, where, PSYCOPG % HOST, "psycopg[binary]")
        assert "(42,)" not in said and "psycopg" in said
        assert jail.records(verdict="deny", principal="psycopg")
        assert not [r for r in jail.records(0) if r["scheme"] == "tcp" and r["verdict"] == "allow"]


PSYCOPG2 = """
import psycopg2
def ask(**to):
    try:
        with psycopg2.connect(user="postgres", dbname="postgres", connect_timeout=10, **to) as db:
            cursor = db.cursor()
            cursor.execute("select 6 * 7")
            print(cursor.fetchone())
    except psycopg2.OperationalError as e: print(e)
ask(host="host.outpass.internal", port=5432)
ask(host="localhost", port=5432)
ask(host="host.outpass.internal,elsewhere.example.com", port="5432,5432")
ask(host="host.outpass.internal", hostaddr="127.0.0.1", port=5432)
"""


@postgres
def test_psycopg2_looks_up_in_c_and_is_charged_all_the_same(jail: Enclosure, where: Path) -> None:
    """By name, by forwarded port, with an address of its own; and among several hosts the one without a rule is refused in its name."""
    said = app(jail, where, PSYCOPG2, "psycopg2")
    assert said.count("(42,)") == 3, said
    assert "psycopg2-binary@" in said and "may not connect to elsewhere.example.com:5432" in said, said
    allowed = [r for r in jail.records(host=HOST, port=5432, kind="decision", verdict="allow") if r["scheme"] == "tcp"]
    assert "psycopg2-binary" in {r["principal"] for r in allowed} and "unattributed" not in {r["principal"] for r in allowed}
    (record,) = jail.records(host="elsewhere.example.com", principal="psycopg2-binary")
    assert (record["verdict"], record["reason"]) == ("deny", "no_rule")


ZMQ = """
import zmq
socket = zmq.Context().socket(zmq.PUSH)
connected = socket.get_monitor_socket(zmq.EVENT_CONNECTED)
for host in ("host.outpass.internal", "elsewhere.example.com"):
    try: print(socket.connect(f"tcp://{host}:5555") is not None)
    except OSError as e: print(e)
assert connected.poll(10000), "it connects in a thread of its own"
"""


def test_zeromq_connects_from_a_thread_in_c_and_its_caller_is_charged(jail: Enclosure, where: Path) -> None:
    said = app(jail, where, ZMQ, "zmq")
    assert "True" in said and "app (the application itself) may not connect to elsewhere.example.com:5555" in said, said
    jail.records(host=HOST, port=5555, principal="app", verdict="allow", scheme="tcp")
    (record,) = jail.records(host="elsewhere.example.com", port=5555)
    assert (record["principal"], record["verdict"], record["reason"]) == ("app", "deny", "no_rule")


@postgres
@pytest.mark.parametrize("host", [HOST, "127.0.0.1"])
def test_psql_is_a_program_and_has_a_right_of_its_own(jail: Enclosure, host: str) -> None:
    psql = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/psql"))), None)
    if psql is None:
        pytest.skip("no psql")
    done = jail.run(str(psql), "-h", host, "-U", "postgres", "-tAc", "select 6*7", env={"PGCONNECT_TIMEOUT": "10"})
    assert done.stdout.strip() == "42", done.stderr
    assert jail.records(host=HOST, port=5432, principal="exe:psql", verdict="allow")


REDIS = """
import redis
db = redis.Redis(host="%s", port=6379, socket_timeout=10)
print(db.ping(), db.echo("hi there"))
"""


@redis
@pytest.mark.parametrize("host", [HOST, "127.0.0.1"])
def test_redis_py_by_name_and_by_forwarded_port(jail: Enclosure, where: Path, host: str) -> None:
    assert "True b'hi there'" in app(jail, where, REDIS % host, "redis")
    (*_, record) = jail.records(host=HOST, port=6379, kind="decision", verdict="allow")
    assert record["principal"] == "redis" and record["dialled"] == "127.0.0.1:6379"


@redis
def test_another_package_with_redis_in_hand_is_charged_with_it(jail: Enclosure, where: Path) -> None:
    """The whole chain must hold the right: a package that calls redis needs it too."""
    script = "import redis, requests\ndef go():\n    exec(compile(%r, requests.__file__, 'exec'), requests.__dict__)\ngo()\n" % (
        REDIS % HOST
    )
    said = app(jail, where, script, "redis", "requests")
    assert "b'hi there'" not in said and "requests@" in said, said


@redis
@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli")
def test_redis_cli(jail: Enclosure) -> None:
    assert jail.run("redis-cli", "-h", HOST, "ping").stdout.strip() == "PONG"
    assert jail.run("redis-cli", "ping").stdout.strip() == "PONG", "through the forwarded port"
    refused = jail.run("redis-cli", "-h", HOST, "-p", "6380", "ping")
    assert "PONG" not in refused.stdout
    (record, *_) = jail.records(host=HOST, port=6380, verdict="deny")
    assert (record["principal"], record["reason"]) == ("exe:redis-cli", "no_rule") and f'- "{HOST}:6380"' in record["add"]


@redis
def test_a_program_with_another_name_is_nobody(jail: Enclosure, where: Path) -> None:
    """Rights of exe: go by the file, not by what a process calls itself."""
    found = shutil.which("redis-cli")
    if found is None:
        pytest.skip("no redis-cli")
    copy = where / "redis-cli"
    shutil.copy(found, copy)
    assert "PONG" not in jail.run(str(copy), "-h", HOST, "ping").stdout
    assert jail.records(host=HOST, port=6379, principal="unattributed", verdict="deny")
