"""What the tests of the daemon share.

Lives here: a policy, and a request without a pass. May not live here: the daemon (tests/support/daemon.py).
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

RULES = "version: 1\ntransparent: [requests]\npackages:\n  app: {allow: [network:http], http: ['https://api.example.com/']}\n"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "outpass.yaml"
    path.write_text(RULES)
    return path


def through(address: tuple[str, int]) -> bytes:
    """What the gate behind `address` says to a request without a pass."""
    with socket.create_connection(address, timeout=30) as sock:
        sock.sendall(b"CONNECT elsewhere.example.com:443 HTTP/1.1\r\nHost: elsewhere.example.com:443\r\n\r\n")
        return sock.recv(4096)
