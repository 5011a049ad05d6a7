"""`outpass explain PACKAGE[,CALLER…] [METHOD] URL`: what would the gate say, and why.

Lives here: arguments to an EgressRequest, an Explanation to the terminal. May not live here: the decision (policy/).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import click

from outpass import upstream
from outpass.cli import say
from outpass.cli.source import policy_to_ask
from outpass.errors import EXIT_DENY, EXIT_OK, StartError, UsageError
from outpass.model import Capability, EgressRequest
from outpass.policy import addresses, decide, limits, names
from outpass.policy.explain import explain

RAW = {"tcp": Capability.SOCKET, "udp": Capability.SOCKET, "dns": Capability.DNS, "listen": Capability.LISTEN}


def _chain(text: str) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """`stripe@11.4.0,app` → names and versions, nearest first."""
    chain, versions = [], []
    for part in text.split(","):
        name, _, version = part.strip().partition("@")
        try:
            chain.append(name if name in ("app", "?", "unattributed") or name[:1] == "!" else names.package(name))
        except ValueError as bad:
            raise UsageError(f"{part!r} is not a package: {bad}", "for example stripe, stripe@11.4.0 or exe:git") from None
        versions.append(version or None)
    return tuple(chain), tuple(versions)


def request_of(package: str, rest: tuple[str, ...]) -> EgressRequest:
    """The request that the arguments describe. Raises UsageError for what is not a URL."""
    if len(rest) > 2:
        raise UsageError(f"too many arguments: {' '.join(rest)}", "outpass explain PACKAGE[,CALLER…] [METHOD] URL")
    chain, versions = _chain(package)
    method, url = rest if len(rest) == 2 else ("GET", rest[0])
    scheme, _, after = url.partition("://")
    try:
        if scheme in RAW and after:
            host, port = names.authority(after, 53 if scheme == "dns" else 0)
            return EgressRequest(RAW[scheme], chain, versions, scheme, host, port)
        target = names.parse_url(url)
        return EgressRequest(
            Capability.HTTP, chain, versions, target.scheme, target.host, target.port, method, names.path(target.path)
        )
    except ValueError as bad:
        raise UsageError(f"{url!r}: {bad}", "for example https://api.stripe.com/v1/charges, or tcp://db.internal:5432") from None


def proxy_of(request: EgressRequest, env: Mapping[str, str]) -> upstream.Upstream | None:
    """The upstream proxy that would resolve the request's name. An operator's daemon has its own environment, unknown here.

    Raises StartError for a proxy that `outpass run` would refuse, too.
    """
    by_name = request.scheme in (*names.DEFAULT_PORTS, "tcp") and not addresses.is_literal(request.host)
    if not by_name or env.get("OUTPASS_SOCKET"):
        return None
    found = upstream.chosen(None, env)
    return found if found is not None and found.carries(request.host, request.port) else None


@click.command("explain")
@click.option("--policy", metavar="FILE", help="The policy to ask (default: $OUTPASS_POLICY, else outpass.yaml here).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.argument("package", metavar="PACKAGE[,CALLER…]")
@click.argument("rest", nargs=-1, required=True, metavar="[METHOD] URL")
def command(policy: str | None, as_json: bool, package: str, rest: tuple[str, ...]) -> int:
    """Say whether PACKAGE may make this request, by which rule, and what would change it.

    Exit 0 allow, 1 deny, 2 bad input. tcp://HOST:PORT, dns://NAME and listen://ADDRESS:PORT ask for the other capabilities.
    """
    request = request_of(package, rest)
    loaded = policy_to_ask(policy)
    compiled, now = decide.compile(loaded.policy), time.time()
    decision = decide.decide(compiled, request, now=now)
    told = explain(decision, limits.holding(compiled, request, now) if decision.allowed else ())
    try:
        proxy = proxy_of(request, os.environ) if decision.allowed else None
    except StartError as problem:
        raise UsageError(problem.message, problem.hint) from None
    if as_json:
        through = None if proxy is None else {"proxy": proxy.shown, "source": proxy.source}
        say.data({**told.as_json(), "upstream": through})
    else:
        for line in told.lines:
            click.echo(line)
        if proxy is not None:
            click.echo(f"  through: {proxy.shown} (from {proxy.source}): it resolves the name, so the address is not checked")
    return EXIT_OK if decision.allowed else EXIT_DENY
