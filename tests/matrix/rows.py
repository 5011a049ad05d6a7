"""The cells of the matrix: each library in each way of running it.

Lives here: libraries and ways. May not live here: versions and running (__main__).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.support import stacks
from tests.support.stacks import HTTP, RPC, WS, Stack

_WS_ANY = """
async def ask(s, url):
    import websockets
    try:
        async with websockets.connect(url) as w:
            await w.send("200")
            return int(await w.recv())
    except Exception as e:
        told = getattr(e, "status_code", None) or getattr(getattr(e, "response", None), "status_code", None)
        if told is None: raise
        return told
"""
_RUNS: Final = {
    "asyncio": "import asyncio\ndef run(main): return asyncio.run(main())",
    "uvloop": "import uvloop\ndef run(main):\n    loop = uvloop.new_event_loop()\n    return loop.run_until_complete(main())",
    "trio": "import trio\ndef run(main): return trio.run(main)",
}
_WAYS: Final = {
    "sync": "def by(f, *a): return f(*a)",
    "thread": "import threading\ndef by(f, *a):\n    out = []\n    t = threading.Thread(target=lambda: out.append(f(*a)))\n"
    "    t.start(); t.join()\n    return out[0] if out else 'the thread failed'",
    "pool": "from concurrent.futures import ThreadPoolExecutor\nexecutor = ThreadPoolExecutor(1)\ndef by(f, *a): return executor.submit(f, *a).result()",
    "gevent": "import gevent\ndef by(f, *a): return gevent.spawn(f, *a).get()",
}  # fmt: skip


class Library(NamedTuple):
    name: str
    package: str
    """whose version is shown"""
    ask: str
    session: str
    ways: tuple[str, ...]
    host: str = HTTP

    def stack(self, way: str) -> Stack:
        """The row for one way."""
        if way in _WAYS:
            main = f"{_WAYS[way]}\n{self.session}\ngot = [by(mine, s, url('app')), by(theirs, s, url('evil'))]"
            return Stack(f"{self.name}/{way}", self.ask, main, self.host)
        body = "async def main():\n    async with session() as s:\n        return [await mine(s, url('app')), await theirs(s, url('evil'))]"
        main = f"{_RUNS[way]}\n{self.session}\n{body}\ngot = run(main)"
        return Stack(f"{self.name}/{way}", self.ask, main, self.host)


_SYNC, _ASYNC = ("sync", "thread", "pool", "gevent"), ("asyncio", "uvloop")
WAYS: Final = (*_SYNC, *_ASYNC, "trio")
_NONE = "import contextlib\n@contextlib.asynccontextmanager\nasync def session(): yield {}"
_CHANNEL = "grpc.{aio}secure_channel('rpc.example.com:443', grpc.ssl_channel_credentials())"
_AWAIT = "async " + stacks.AWAIT
LIBRARIES: Final = [
    Library("requests", "requests", stacks.STATUS, "import requests; s = requests.Session()", _SYNC),
    Library("requests, trust_env off", "requests", stacks.STATUS, "import requests; s = requests.Session(); s.trust_env = False", _SYNC),
    Library("urllib3, no proxy", "urllib3", stacks.URLLIB3, "import urllib3; s = urllib3.PoolManager()", _SYNC),
    Library("httpx", "httpx", stacks.STATUS, "import httpx; s = httpx.Client()", _SYNC),
    Library("httpx, HTTP/2", "httpx", stacks.STATUS, "import httpx; s = httpx.Client(http2=True)", _SYNC),
    Library("niquests", "niquests", stacks.STATUS, "import niquests; s = niquests.Session()", _SYNC),
    Library("pycurl", "pycurl", stacks.CURL, "import pycurl; s = pycurl.Curl()", _SYNC),
    Library("curl_cffi", "curl-cffi", stacks.STATUS, "from curl_cffi import requests; s = requests.Session()", _SYNC),
    Library("grpc", "grpcio", stacks.CALL, f"import grpc; s = {_CHANNEL.format(aio='')}", _SYNC, RPC),
    Library("websockets, threads", "websockets", stacks.WEBSOCKET, "s = {}", _SYNC, WS),
    Library("aiohttp", "aiohttp", "async " + stacks.AIOHTTP, "from aiohttp import ClientSession as session", _ASYNC),
    Library("aiohttp, trust_env", "aiohttp", "async " + stacks.AIOHTTP, "import aiohttp\ndef session(): return aiohttp.ClientSession(trust_env=True)", _ASYNC),
    Library("httpx, async", "httpx", _AWAIT, "from httpx import AsyncClient as session", (*_ASYNC, "trio")),
    Library("httpx, async, trust_env off", "httpx", _AWAIT, "import httpx\ndef session(): return httpx.AsyncClient(trust_env=False)", (*_ASYNC, "trio")),
    Library("niquests, async", "niquests", _AWAIT, "from niquests import AsyncSession as session", _ASYNC),
    Library("curl_cffi, async", "curl-cffi", _AWAIT, "from curl_cffi.requests import AsyncSession as session", _ASYNC),
    Library("websockets", "websockets", _WS_ANY, _NONE, _ASYNC, WS),
    Library("grpc.aio", "grpcio", stacks.CALL_AWAIT, f"import grpc\ndef session(): return {_CHANNEL.format(aio='aio.')}", ("asyncio",), RPC),
    Library("asyncio's streams", "", stacks.STREAMS, _NONE, _ASYNC),
]  # fmt: skip
