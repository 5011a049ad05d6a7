"""C libraries that look names up and connect by themselves: in a jail they are handed an address in place of the name.

Lives here: psycopg2 and pyzmq. May not live here: which address stands for what (_tunnel), leave to connect (_guard).

The address stands for the name and for whoever is calling, so that the gate knows whose the connection is; a name that libpq or
libzmq looks up goes past the shim, and its connection is `unattributed`. Psycopg 3 looks up in Python and needs no help.
"""

import os

from outpass_shim import EgressDenied, _guard, _tunnel
from outpass_shim._registry import Any


def patch_psycopg2(module: Any) -> None:
    """psycopg2._connect, which connect() calls with a connection string: `hostaddr` beside `host`, which TLS still verifies."""
    original = module._connect

    def _connect(dsn: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            addresses = _addresses(module.extensions.parse_dsn(dsn)) if _tunnel.jailed() else ""
        except EgressDenied as denied:
            raise module.OperationalError(str(denied)) from denied
        return original(module.extensions.make_dsn(dsn, hostaddr=addresses) if addresses else dsn, *args, **kwargs)

    module._connect = _connect


def _addresses(said: "dict[str, str]") -> str:
    """`hostaddr` for a connection string; "" where a host is local or a socket's directory."""
    hosts = (said.get("hostaddr") or said.get("host") or os.environ.get("PGHOST", "")).split(",")
    ports = (said.get("port") or os.environ.get("PGPORT", "") or "5432").split(",")
    if "service" in said or any(host[:1] in ("", "/", "@") for host in hosts):
        return ""
    ports = ports * len(hosts) if len(ports) == 1 else ports
    found = [_guard.stand_in(host, int(port or 5432)) for host, port in zip(hosts, ports)]
    return "" if None in found else ",".join(str(address) for address in found)


def patch_zmq(module: Any) -> None:
    """zmq.sugar.socket.Socket.connect and disconnect: `tcp://host:port`."""
    socket = module.Socket

    def addressed(name: str) -> None:
        original = getattr(socket, name)

        def call(self: Any, addr: Any) -> Any:
            return original(self, _endpoint(addr))

        call.__name__, call.__doc__ = name, original.__doc__
        setattr(socket, name, call)

    addressed("connect")
    if "disconnect" in dir(socket):
        addressed("disconnect")


def _endpoint(addr: Any) -> Any:
    text = addr.decode("utf-8", "replace") if isinstance(addr, bytes) else str(addr)
    scheme, _, rest = text.partition("://")
    source, semicolon, place = rest.rpartition(";")
    host, _, port = place.rpartition(":")
    if scheme != "tcp" or not port.isdigit() or not _tunnel.jailed():
        return addr
    found = _guard.stand_in(host.strip("[]"), int(port))
    return addr if found is None else f"tcp://{source}{semicolon}{found}:{port}"
