"""Patches a library at the moment the program imports it, and never imports one that the program does not.

Lives here: the list of libraries, the finder on sys.meta_path. May not live here: the patches themselves.
A library whose patch fails gets no passes, which the gate refuses; the program is told once.
"""

import sys

from outpass_shim._registry import Any

RUNNERS = ("cProfile", "profile", "trace", "coverage.execfile", "_pydevd_bundle.pydevd_runpy")
"""Modules that run a program's file by a plain exec(), in a namespace of their own making."""
PATCHES = {
    "_posixsubprocess": ("_spawn", "fork_exec"),
    "socket": ("_guard", "patch"),
    "ssl": ("_ssl", "patch"),
    "http.client": ("_http", "patch"),
    "h11": ("_h11", "patch_h11"),
    "h2.connection": ("_h11", "patch_h2"),
    "jh2.connection": ("_h11", "patch_h2"),
    "aiohttp.client_reqrep": ("_aiohttp", "patch"),
    "websockets.client": ("_websockets", "patch_protocol"),
    "websockets.legacy.client": ("_websockets", "patch_legacy"),
    "websockets.asyncio.client": ("_websockets", "patch_connect"),
    "websockets.sync.client": ("_websockets", "patch_connect"),
    "websockets.trio.client": ("_websockets", "patch_connect"),
    "websocket._http": ("_websockets", "patch_tunnel"),
    "websocket._handshake": ("_websockets", "patch_handshake"),
    "pycurl": ("_curl", "patch_pycurl"),
    "curl_cffi.curl": ("_curl", "patch_cffi"),
    "grpc": ("_grpc", "patch_trust"),
    "grpc._channel": ("_grpc", "patch"),
    "grpc.aio._channel": ("_grpc", "patch"),
    "threading": ("_origin", "threads"),
    "concurrent.futures.thread": ("_origin", "executors"),
    "asyncio.base_events": ("_origin", "tasks"),
    "uvloop": ("_uvloop", "patch"),
    "trio._core._run": ("_origin", "trios"),
    "gevent.greenlet": ("_gevent", "greenlets"),
    "gevent.pool": ("_gevent", "maps"),
    "gevent.threadpool": ("_gevent", "pool"),
    "gevent._socketcommon": ("_gevent", "resolver"),
    "gevent._socket3": ("_gevent", "sockets"),
    "contextvars": ("_origin", "contexts"),
    "atexit": ("_origin", "exits"),
    "dns.query": ("_dns", "patch"),
    "dns.asyncquery": ("_dns", "patch_async"),
    "psycopg2": ("_native", "patch_psycopg2"),
    "zmq.sugar.socket": ("_native", "patch_zmq"),
    "runpy": ("_loaders", "runpy"),
    **dict.fromkeys(RUNNERS, ("_loaders", "runner")),
    "_pytest.assertion.rewrite": ("_loaders", "pytest"),
    "IPython.core.interactiveshell": ("_loaders", "ipython"),
}
"""Module of a library → (room of the shim, function there that patches it)."""


def install() -> None:
    """Patches what is imported already, and everything else when it will be."""
    for name in PATCHES:
        if name in sys.modules:
            _apply(sys.modules[name], name)
    sys.meta_path.insert(0, Finder)


def _apply(module: Any, name: str) -> None:
    room, function = PATCHES[name]
    try:
        getattr(getattr(__import__("outpass_shim." + room), room), function)(module)
    except Exception as e:
        from outpass_shim import _wire

        _wire.say("error", f"this version of {name} is not known to the shim ({type(e).__name__}: {e})")


class Finder:
    """Finds the listed modules where the other finders do, and has them patched once they are executed."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        """The other finders' spec with a loader that patches, or None for a module that is not listed."""
        if name not in PATCHES:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)  # finders of the old kind have none
            spec = None if finder is Finder or find is None else find(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Patching(spec.loader, name)
                return spec
        return None


class _Patching:
    """A loader that hands everything to the real one, and gives its place back before the module's code runs."""

    def __init__(self, loader: Any, name: str) -> None:
        self._loader, self._name = loader, name  # not the module's own idea of it: gevent's take over those of other modules

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _apply(module, self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
