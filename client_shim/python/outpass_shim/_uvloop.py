"""uvloop's connections: it resolves and connects in C, where no call of `socket` is seen and nobody would be charged.

Lives here: create_connection and getaddrinfo of its loop. May not live here: who started a callback (_origin).
"""

from outpass_shim import _origin
from outpass_shim._registry import Any


def patch(module: Any) -> None:
    """uvloop.Loop: origins, and connections that a socket of Python's makes."""
    import socket

    _origin.uvloops(module)
    loop = module.Loop
    connect = loop.create_connection

    async def create_connection(self: Any, protocol_factory: Any, host: Any = None, port: Any = None, **kwargs: Any) -> Any:
        if host is None or kwargs.get("sock") is not None:
            return await connect(self, protocol_factory, host, port, **kwargs)
        family, local = kwargs.pop("family", 0), kwargs.pop("local_addr", None)
        proto, flags = kwargs.pop("proto", 0), kwargs.pop("flags", 0)
        for name in ("happy_eyeballs_delay", "interleave"):
            kwargs.pop(name, None)
        if kwargs.get("ssl") and kwargs.get("server_hostname") is None:
            kwargs["server_hostname"] = host
        error: Any = OSError(f"getaddrinfo({host!r}) returned an empty list")
        for info in await getaddrinfo(self, host, port, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags):
            sock = socket.socket(*info[:3])
            try:
                sock.setblocking(False)
                if local is not None:
                    sock.bind(local)
                await self.sock_connect(sock, info[4])
                return await connect(self, protocol_factory, None, None, sock=sock, **kwargs)
            except OSError as e:
                error = e
                sock.close()
            except BaseException:
                sock.close()
                raise
        raise error

    async def getaddrinfo(self: Any, host: Any, port: Any, **kwargs: Any) -> Any:
        # Who asks is known in the executor's thread too (_origin.executors).
        return await self.run_in_executor(None, lambda: socket.getaddrinfo(host, port, **kwargs))

    for function in (create_connection, getaddrinfo):
        function.__doc__ = getattr(loop, function.__name__).__doc__
        setattr(loop, function.__name__, function)
