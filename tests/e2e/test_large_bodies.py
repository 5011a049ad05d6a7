"""1 GB down and 1 GB up through the gate, which holds less than 150 MB at its worst."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
import trustme

from tests.e2e.test_faults import find
from tests.support.runs import OUTPASS, apps, environment

SIZE = 1 << 30
LIMIT_KB = 150 * 1024
POLICY = (
    'version: 1\ninclude: [preset:http-clients]\npackages:\n  app: {allow: [network:http], http: ["https://up.example.com/**"]}\n'
)
SCRIPT = f"""
import requests, sys
def zeros():
    block = bytes(1 << 18)
    for _ in range({SIZE} >> 18):
        yield block
down = 0
with requests.get("https://up.example.com/down", stream=True) as r:
    for part in r.iter_content(1 << 18):
        down += len(part)
up = requests.post("https://up.example.com/up", data=zeros()).text
print(down, up, flush=True)
sys.stdin.read()
"""


class Bulk(threading.Thread):
    """A TLS server that sends or swallows SIZE bytes, cheaply; answers an upload with how much arrived."""

    def __init__(self, where: Path) -> None:
        super().__init__(daemon=True)
        ca = trustme.CA()
        self.ca_file = where / "ca.pem"
        ca.cert_pem.write_to_path(str(self.ca_file))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("up.example.com").configure_cert(self.context)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]

    def run(self) -> None:
        while True:
            raw, _ = self.listening.accept()
            threading.Thread(target=self.serve, args=(raw,), daemon=True).start()

    def serve(self, raw: socket.socket) -> None:
        with self.context.wrap_socket(raw, server_side=True) as peer, peer.makefile("rb") as stream:
            while line := stream.readline():
                headers = dict(h.decode().lower().strip().split(": ", 1) for h in iter(stream.readline, b"\r\n"))
                if b" /down " in line:
                    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE)
                    block = bytes(1 << 18)
                    for _ in range(SIZE >> 18):
                        peer.sendall(block)
                    continue
                got = 0
                if "content-length" in headers:
                    while got < int(headers["content-length"]):
                        got += len(stream.read(min(1 << 18, int(headers["content-length"]) - got)))
                else:
                    while size := int(stream.readline(), 16):
                        got += len(stream.read(size))
                        stream.readline()
                    stream.readline()
                body = str(got).encode()
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_gigabyte_each_way_in_flat_memory(tmp_path: Path) -> None:
    server = Bulk(tmp_path)
    server.start()
    (tmp_path / "main.py").write_text(SCRIPT)
    (tmp_path / "outpass.yaml").write_text(POLICY)
    command = [OUTPASS, "run", "--policy", "outpass.yaml", "--no-jail", "-q", "--upstream-ca", str(server.ca_file)]
    command += ["--connect-to", f"up.example.com:443:127.0.0.1:{server.port}", "--", str(apps()), "main.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), **pipes)
    assert process.stdout is not None
    line = process.stdout.readline()
    peak = Path(f"/proc/{find(process.pid, 'outpass.gate')}/status").read_text()
    _, err = process.communicate(timeout=60)
    assert line.split() == [str(SIZE), str(SIZE)], line + err
    high = int(re.search(r"VmHWM:\s+(\d+) kB", peak).group(1))  # type: ignore[union-attr]
    assert high < LIMIT_KB, f"the gate held {high // 1024} MB"
