"""What the shim costs each HTTP stack for a request on a kept connection, and a program that imports 200 packages. CPU of the client.

Lives here: figures, each a ratio to the same program without the shim, A B A B in one run. May not live here: judgements.
The proxy and the broker answer from memory in processes of their own; what is compared is the client's own CPU time.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import trustme

from tests.bench.bench_shim import BROKER
from tests.shim.rig import World
from tests.support.grpc_origin import GrpcOrigin
from tests.support.proxies import Proxy
from tests.support.runs import stacks
from tests.support.websocket_origin import WebSocketOrigin

ROUNDS, WARM, REQUESTS = 5, 30, 300
URL = "http://api.example.com/x"
CLIENT = """
import os, sys, time
URL, WARM, N = {url!r}, {warm}, {requests}
def measure(get):
    for _ in range(WARM): assert get() == 200
    start = time.process_time_ns()
    for _ in range(N): get()
    print((time.process_time_ns() - start) / N / 1000)
async def wait(get):
    for _ in range(WARM): assert await get() == 200
    start = time.process_time_ns()
    for _ in range(N): await get()
    print((time.process_time_ns() - start) / N / 1000)
"""
STACKS = {
    "urllib3": "import urllib3\ns = urllib3.ProxyManager(os.environ['http_proxy'])\nmeasure(lambda: s.request('GET', URL).status)",
    "requests": "import requests\ns = requests.Session()\nmeasure(lambda: s.get(URL).status_code)",
    "httpx": "import httpx\ns = httpx.Client()\nmeasure(lambda: s.get(URL).status_code)",
    "httpx, async": (
        "import asyncio, httpx\nasync def main():\n    async with httpx.AsyncClient() as s:\n        async def get(): return (await s.get(URL)).status_code\n"
        "        await wait(get)\nasyncio.run(main())"
    ),
    "aiohttp": (
        "import asyncio, aiohttp\nasync def main():\n    async with aiohttp.ClientSession(trust_env=True) as s:\n        async def get():\n"
        "            async with s.get(URL) as r:\n                await r.read()\n                return r.status\n        await wait(get)\nasyncio.run(main())"
    ),
    "pycurl": (
        "import pycurl\ns = pycurl.Curl(); s.setopt(pycurl.URL, URL); s.setopt(pycurl.WRITEFUNCTION, lambda b: None)\n"
        "def get():\n    s.perform()\n    return s.getinfo(pycurl.RESPONSE_CODE)\nmeasure(get)"
    ),
    "curl_cffi": "from curl_cffi import requests\ns = requests.Session()\nmeasure(lambda: s.get(URL).status_code)",
}  # fmt: skip

TUNNELLED = {
    "grpc, a call": (
        "import grpc\ncreds = grpc.ssl_channel_credentials(open(os.environ['CA'], 'rb').read())\n"
        "call = grpc.secure_channel('rpc.example.com:443', creds).unary_unary('/test.Echo/Unary')\nmeasure(lambda: call(b'x') and 200)"
    ),
    "grpc.aio, a call": (
        "import asyncio, grpc, grpc.aio\nasync def main():\n    creds = grpc.ssl_channel_credentials(open(os.environ['CA'], 'rb').read())\n"
        "    async with grpc.aio.secure_channel('rpc.example.com:443', creds) as channel:\n        call = channel.unary_unary('/test.Echo/Unary')\n"
        "        async def get(): return await call(b'x') and 200\n        await wait(get)\nasyncio.run(main())"
    ),
    "websockets, a connection with one message": (
        "import asyncio, ssl\nfrom websockets.asyncio.client import connect\ncontext = ssl.create_default_context(cafile=os.environ['CA'])\n"
        "async def get():\n    async with connect('wss://ws.example.com/', ssl=context) as w:\n        await w.send('200')\n        return int(await w.recv())\n"
        "asyncio.run(wait(get))"
    ),
}  # fmt: skip
"""Over CONNECT and TLS, to real servers behind a proxy that asks for no pass."""


def run() -> dict[str, Any]:
    """Microseconds of CPU a request without and with the shim, and their ratio; the same for imports, in milliseconds."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        try:
            return _measure(world)
        finally:
            world.close()


def _measure(world: World) -> dict[str, Any]:
    python = stacks()
    site = next((python.parent.parent / "lib").glob("python3.*/site-packages"))
    for number in range(200):
        world.package(f"pkg{number}", "import json\nclass A:\n    def f(self): return json\n" * 20)
    world.owners.update({str(p): p.name for p in site.iterdir() if p.is_dir()})
    world.more["sites"] = [str(world.site), str(site)]
    world.broker.reply["transparent"] = [
        "requests",
        "urllib3",
        "httpx",
        "httpcore",
        "h11",
        "aiohttp",
        "anyio",
        "curl_cffi",
        "pycurl",
    ]
    world.write_map()
    mint, hello = str(world.where / "bench.sock"), {**world.broker.reply, "sid": "s-1"}
    broker = subprocess.Popen([sys.executable, "-c", BROKER, mint, json.dumps(hello)], stdout=subprocess.PIPE)
    try:
        assert broker.stdout is not None
        broker.stdout.readline()
        shim = {**world.environment(), "OUTPASS_MINT": mint}
        plain = {k: v for k, v in shim.items() if not k.startswith("OUTPASS_")} | {"PYTHONPATH": str(world.site)}
        figures = {name: _requests(world, str(python), source, plain, shim) for name, source in STACKS.items()}
        figures |= _tunnelled(world, str(python), plain, shim)
        return {**figures, "import of 200 packages": _imports(world, str(python), plain, shim)}
    finally:
        broker.kill()
        broker.wait()


def _tunnelled(world: World, python: str, plain: dict[str, str], shim: dict[str, str]) -> dict[str, dict[str, float]]:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(world.where / "ca.pem"))
    with GrpcOrigin(ca, "rpc.example.com") as rpc, WebSocketOrigin("ws.example.com", ca) as sockets:
        names = {("rpc.example.com", 443): rpc.port, ("ws.example.com", 443): sockets.port}
        with Proxy("http", names) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            to = {
                "CA": str(world.where / "ca.pem"),
                **dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"), url),
            }
            behind = {"OUTPASS_PROXY": f"127.0.0.1:{proxy.port}"}
            return {
                name: _requests(world, python, source, {**plain, **to}, {**shim, **to, **behind})
                for name, source in TUNNELLED.items()
            }


def _requests(world: World, python: str, source: str, plain: dict[str, str], shim: dict[str, str]) -> dict[str, float]:
    script = world.app / "main.py"
    script.write_text(CLIENT.format(url=URL, warm=WARM, requests=REQUESTS) + source)
    rows: dict[str, list[float]] = {"plain": [], "shim": []}
    for _ in range(ROUNDS):
        for name, env in (("plain", plain), ("shim", shim)):
            done = subprocess.run([python, str(script)], env=env, capture_output=True, text=True, check=True)
            rows[name].append(float(done.stdout))
    return _ratio(rows, "us")


def _imports(world: World, python: str, plain: dict[str, str], shim: dict[str, str]) -> dict[str, float]:
    script = world.app / "imports.py"
    script.write_text("\n".join(f"import pkg{number}" for number in range(200)))
    subprocess.run([python, str(script)], env=plain, check=True)  # the bytecode is written
    rows: dict[str, list[float]] = {"plain": [], "shim": []}
    for _ in range(ROUNDS * 3):
        for name, env in (("plain", plain), ("shim", shim)):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([python, str(script)], env=env, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            rows[name].append(1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return _ratio(rows, "ms")


def _ratio(rows: dict[str, list[float]], unit: str) -> dict[str, float]:
    without, with_shim = statistics.median(rows["plain"]), statistics.median(rows["shim"])
    return {f"plain_{unit}": round(without, 1), f"shim_{unit}": round(with_shim, 1), "ratio": round(with_shim / without, 3)}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
