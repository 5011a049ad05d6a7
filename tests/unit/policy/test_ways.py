"""Which way a raw connection goes, as sentences."""

from __future__ import annotations

import pytest

from outpass.policy.decide import decide
from outpass.policy.ways import Way, of_connection
from tests.support.policies import NOW, ask, compiled

RULES = """
packages:
  web: {allow: [network:http], http: ["https://x.example.com/"]}
  plain: {allow: [network:http], http: ["http://x.example.com/"]}
  unseen: {allow: [network:http], http: [{url: "https://x.example.com/", intercept: false}]}
  raw: {allow: [network:socket], socket: ["x.example.com:443"]}
  named: {allow: [network:http, network:socket], socket: ["x.example.com:443"]}
  both: {allow: [network:http, network:socket], http: ["https://x.example.com/"], socket: ["x.example.com:443"]}
  none: {}
"""


@pytest.mark.parametrize(
    ("sentence", "who", "mode", "port", "way"),
    [
        ("an https rule is looked into", "web", "enforce", 443, Way.HTTP),
        ("without intercept it is carried as TLS", "unseen", "enforce", 443, Way.TLS),
        ("a socket rule carries anything", "raw", "enforce", 443, Way.RAW),
        ("the rule that names the destination wins", "named", "enforce", 443, Way.RAW),
        ("where both name it, it is looked into", "both", "enforce", 443, Way.HTTP),
        ("nothing allowed is for the socket's decision to refuse", "none", "enforce", 443, Way.RAW),
        ("in audit mode a web port is looked into", "none", "audit", 443, Way.HTTP),
        ("in audit mode another port is carried", "none", "audit", 5432, Way.RAW),
    ],
)
def test_the_way_of_a_raw_connection(sentence: str, who: str, mode: str, port: int, way: Way) -> None:
    policy = compiled(f"mode: {mode}\n" + RULES)
    questions = (f"https://x.example.com:{port}/", f"http://x.example.com:{port}/", f"tcp://x.example.com:{port}")
    tls, plain, raw = (decide(policy, ask(who, q, host_only=True), now=NOW) for q in questions)
    assert of_connection(tls, plain, raw, port) is way, sentence
