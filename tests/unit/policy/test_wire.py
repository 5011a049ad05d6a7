"""A policy on its way to a gate, and its digest."""

from __future__ import annotations

import json

import pytest

from outpass.policy import wire
from tests.support.policies import policy

EVERYTHING = """
mode: audit
transparent: [requests]
instruments: [opentelemetry-*]
ceiling: {http: ["GET https://**.com/"], listen: [8000]}
packages:
  stripe:
    versions: ">=11"
    mode: enforce
    allow: [network:all]
    limits: {rps: 0.1}
    http:
      - "https://a.example.com/"
      - {url: "https://b.example.com/x", methods: [GET, POST], via: [django], private: [10.0.0.0/8], expires: 2027-01-01,
         multi_tenant: true, owner: me, why: because, limits: {rps: 20, bytes_out: 2MiB/min, bytes_in: 1GB/day}}
      - {url: "https://c.example.com/", intercept: false}
    socket: ["10.0.0.0/8:1-9"]
    deny: {http: ["https://d.example.com/"]}
"""


def test_what_is_dumped_is_what_is_loaded() -> None:
    before = policy(EVERYTHING, 'packages: {stripe: {http: ["https://e.example.com/"]}}')
    after = wire.load(json.loads(json.dumps(wire.dump(before))))
    assert after == before
    assert wire.digest(after) == wire.digest(before)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "outpass.policy/2"},
        {"format": None},
        {"packages": [{"name": "a"}]},
        {"packages": 7},
        {"files": []},
        {"ceilings": [{"at": [0, 1]}]},
        {"transparent": None},
    ],
    ids=str,
)
def test_a_damaged_document_is_refused_whole(damage: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        wire.load({**wire.dump(policy(EVERYTHING)), **damage})


SAME = 'packages: {a: {allow: [network:http], http: ["https://x.example/", "https://y.example/"]}, b: {}}'


@pytest.mark.parametrize(
    "sentence, other, same",
    [
        ("comments and lines", "\n\n# moved\n" + SAME, True),
        (
            "the order of rules",
            SAME.replace('"https://x.example/", "https://y.example/"', '"https://y.example/", "https://x.example/"'),
            True,
        ),
        ("the order of packages", SAME.replace(", b: {}", "").replace("{a:", "{b: {}, a:"), True),
        ("who answers for it", SAME.replace('"https://x.example/"', '{url: "https://x.example/", owner: me, why: so}'), True),
        ("another rule", SAME.replace("x.example", "z.example"), False),
        ("a rule less", SAME.replace('"https://x.example/", ', ""), False),
        ("a deny rule for an allow rule", SAME.replace("b: {}", 'b: {deny: {http: ["https://x.example/"]}}'), False),
        ("an empty list for no list", SAME.replace("b: {}", "b: {http: []}"), False),
        ("a ceiling", SAME + "\nceiling: {http: []}", False),
        ("a mode", SAME + "\nmode: audit", False),
        ("a transparent package", SAME + "\ntransparent: [requests]", False),
        ("an end", SAME.replace('"https://x.example/"', '{url: "https://x.example/", expires: 2027-01-01}'), False),
        ("a limit", SAME.replace('"https://x.example/"', '{url: "https://x.example/", limits: {rps: 1}}'), False),
        ("a limit on a package", SAME.replace("b: {}", "b: {limits: {bytes_in: 1B/s}}"), False),
        ("a closed tunnel", SAME.replace('"https://x.example/"', '{url: "https://x.example/", intercept: false}'), False),
    ],
)
def test_the_digest_is_over_what_is_granted(sentence: str, other: str, same: bool) -> None:
    assert (wire.digest(policy(SAME)) == wire.digest(policy(other))) is same, sentence
