"""What does not speak HTTP: databases, brokers, SSH, DNS. Real servers where this machine runs them, else as much of one as a call needs.

Lives here: smoke calls. May not live here: servers, assertions. A call is written into a program of its own, so it imports for itself.
"""

from __future__ import annotations

from tests.top60.smoke import smoke

SELECTED = "42"


@smoke(
    "sqlalchemy",
    98,
    "select 6 * 7 by psycopg",
    charged="psycopg",
    family=("sqlalchemy",),
    kind="socket",
    server="postgresql",
    port=5432,
    says=SELECTED,
    needs=("psycopg[binary]",),
)
def sqlalchemy_(host):
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"postgresql+psycopg://postgres@{host}:5432/postgres", connect_args={"connect_timeout": 10})
    with engine.connect() as db:
        return db.execute(sqlalchemy.text("select 6 * 7")).scalar()


@smoke(
    "dnspython",
    139,
    "asks a nameserver over TCP",
    kind="socket",
    server="dns",
    port=5353,
    address="192.0.2.53",
    says="192.0.2.42",
)
def dnspython_(host):
    import dns.message
    import dns.query

    return dns.query.tcp(dns.message.make_query("answer.example.com", "A", id=0), host, timeout=10, port=5353).answer


@smoke("redis", 143, "echo", kind="socket", server="redis", port=6379, says="hello")
def redis_(host):
    import redis

    return redis.Redis(host=host, port=6379, socket_timeout=10).echo("hello")


@smoke("psycopg2-binary", 147, "select 6 * 7", kind="socket", server="postgresql", port=5432, says=SELECTED)
def psycopg2_(host):
    import psycopg2

    with psycopg2.connect(host=host, port=5432, user="postgres", dbname="postgres", connect_timeout=10) as db:
        cursor = db.cursor()
        cursor.execute("select 6 * 7")
        return cursor.fetchone()[0]


@smoke("paramiko", 241, "exchanges versions with an SSH server", kind="socket", server="ssh", port=22, says="SSH-2.0-top60_1")
def paramiko_(host):
    import contextlib

    import paramiko

    transport = paramiko.Transport((host, 22))
    with contextlib.suppress(paramiko.SSHException, EOFError):
        transport.start_client(timeout=10)
    return transport.remote_version


@smoke("pyzmq", 305, "a socket connects and greets", charged="app", kind="socket", server="zmq", port=5555, says="sent")
def pyzmq_(host):
    import time

    import zmq

    socket = zmq.Context().socket(zmq.PUSH)
    watched = socket.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED)
    socket.connect(f"tcp://{host}:5555")
    import zmq.utils.monitor

    if not watched.poll(5000):
        raise OSError("no connection")
    event = zmq.utils.monitor.recv_monitor_message(watched)["event"]
    time.sleep(0.5)
    if event != zmq.EVENT_CONNECTED:
        raise OSError(event)
    return "sent"


@smoke("pymongo", 311, "ping", kind="socket", server="mongo", port=27017, says="1.0")
def pymongo_(host):
    import pymongo

    return pymongo.MongoClient(host, 27017, serverSelectionTimeoutMS=5000).admin.command("ping")["ok"]


@smoke("asyncpg", 329, "select 6 * 7", kind="socket", server="postgresql", port=5432, says=SELECTED)
def asyncpg_(host):
    import asyncio

    import asyncpg

    async def main():
        db = await asyncpg.connect(host=host, port=5432, user="postgres", database="postgres", ssl=False, timeout=10)
        return await db.fetchval("select 6 * 7")

    return asyncio.run(main())


@smoke("pymysql", 332, "select 6 * 7", kind="socket", server="mariadb", port=3306, says=SELECTED)
def pymysql_(host):
    import pymysql

    cursor = pymysql.connect(host=host, port=3306, user="root", password="", connect_timeout=10).cursor()
    cursor.execute("select 6 * 7")
    return cursor.fetchone()[0]


@smoke("psycopg", 368, "select 6 * 7", kind="socket", server="postgresql", port=5432, says=SELECTED, needs=("psycopg[binary]",))
def psycopg_(host):
    import psycopg

    with psycopg.connect(host=host, port=5432, user="postgres", dbname="postgres", connect_timeout=10) as db:
        return db.execute("select 6 * 7").fetchone()[0]


@smoke("mysql-connector-python", 527, "select 6 * 7", kind="socket", server="mariadb", port=3306, says=SELECTED)
def mysql_connector_(host):
    import mysql.connector

    db = mysql.connector.connect(host=host, port=3306, user="root", password="", connection_timeout=10)
    cursor = db.cursor()
    cursor.execute("select 6 * 7")
    return cursor.fetchone()[0]
