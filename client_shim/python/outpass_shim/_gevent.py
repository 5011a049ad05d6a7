"""gevent: who started a greenlet, and its own sockets and look-ups, which take the place of `socket`'s.

Lives here: greenlets, its thread pool, its socket class and resolver. May not live here: what a connection needs (_guard).

A greenlet begins with an empty stack and an empty context; here the context has an origin in it and nothing else. What is made by
gevent.spawn_raw or the greenlet library itself stays without one: `?`.
"""

import contextvars

from outpass_shim import _guard, _origin
from outpass_shim._chain import capture, origin
from outpass_shim._registry import Any


def greenlets(module: Any) -> None:
    """gevent.greenlet.Greenlet, a type of C: a subclass takes its place before anybody imports it."""

    class Greenlet(module.Greenlet):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.gr_context = _context()

    Greenlet.__module__, Greenlet.__qualname__, Greenlet.__doc__ = "gevent", "Greenlet", module.Greenlet.__doc__
    module.Greenlet = Greenlet


def _context() -> Any:
    context = contextvars.Context()
    context.run(origin.set, capture())
    return context


def maps(module: Any) -> None:
    """gevent.pool's imap and imap_unordered, whose greenlets are made in C: the one that makes the others has an origin."""
    for name in ("imap", "imap_unordered"):
        _wrap_map(module.GroupMappingMixin, name)


def _wrap_map(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = original(self, *args, **kwargs)
        made.gr_context = _context()
        return made

    call.__name__, call.__doc__ = name, original.__doc__
    setattr(owner, name, call)


def pool(module: Any) -> None:
    """gevent.threadpool.ThreadPool.spawn, which apply and map call."""
    original = module.ThreadPool.spawn

    def spawn(self: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, _origin.carried, capture(), func, *args, **kwargs)

    spawn.__doc__ = original.__doc__
    module.ThreadPool.spawn = spawn


def sockets(module: Any) -> None:
    """gevent._socket3.socket, which monkey patching makes `socket.socket`."""
    _guard.patch_class(module.socket)


def resolver(module: Any) -> None:
    """gevent._socketcommon: getaddrinfo and the others, before gevent's sockets take them from it."""
    _guard.patch_resolver(module)
