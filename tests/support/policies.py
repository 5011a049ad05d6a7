"""Policies from text and requests in one line, for tests that judge decisions.

Lives here: builders. May not live here: assertions.
"""

from __future__ import annotations

from textwrap import dedent

from outpass import yamldoc
from outpass.errors import Fault, PolicyError
from outpass.model import EgressRequest
from outpass.policy import decide, names, schema
from outpass.policy.rules import Policy

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z: the clock of policy tests."""
PUBLIC = "93.184.215.14"


def policy(text: str, *included: str) -> Policy:
    """The policy in `text` (its `version: 1` may be left out); `included` are united with it."""
    documents = []
    for number, part in enumerate((text, *included)):
        body = dedent(part)
        body = body if body.startswith("version:") else f"version: 1\n{body.lstrip(chr(10))}"
        documents.append(yamldoc.document("p.yaml" if not number else f"i{number}.yaml", body.encode()))
    return schema.parse(documents)


def compiled(text: str, *included: str) -> decide.Compiled:
    """The same, ready for deciding."""
    return decide.compile(policy(text, *included))


def faults(text: str) -> tuple[Fault, ...]:
    """What is wrong with a text taken as it is; empty when nothing is."""
    try:
        schema.parse([yamldoc.document("p.yaml", text.encode())])
    except PolicyError as problem:
        return problem.faults
    return ()


def ask(
    chain: str,
    url: str,
    *,
    to: tuple[str, ...] | str | None = None,
    capability: str = "network:http",
    host_only: bool = False,
    connect_to: bool = False,
) -> EgressRequest:
    """`ask("stripe@11.4.0 > app", "POST https://api.stripe.com/v1/charges")`; `tcp://`, `dns://`, `listen://` for the others."""
    links = [_link(part.strip()) for part in chain.split(">")] if chain else []
    method, _, target = url.rpartition(" ")
    scheme = target.partition("://")[0]
    addresses = (to,) if isinstance(to, str) else to
    principals, versions = tuple(n for n, _ in links), tuple(v for _, v in links)
    if scheme in {"http", "https"}:
        found = names.parse_url(target)
        path = None if host_only else found.path
        verb = None if host_only else method or "GET"
        return EgressRequest(
            capability, principals, versions, found.scheme, found.host, found.port, verb, path, addresses, connect_to
        )
    kind = {"tcp": "socket", "udp": "socket", "dns": "dns", "listen": "listen"}[scheme]
    host, port = names.authority(target.partition("://")[2], 53 if kind == "dns" else None)
    return EgressRequest(f"network:{kind}", principals, versions, scheme, host, port, addresses=addresses, connect_to=connect_to)


def _link(text: str) -> tuple[str, str | None]:
    """`stripe@11.4.0` → its name and version; the @ of an npm scope is part of the name."""
    at = text.rfind("@")
    return (text[:at], text[at + 1 :]) if at > 0 and text[at - 1] != "/" else (text, None)
