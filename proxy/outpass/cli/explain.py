"""`outpass explain PACKAGE[,CALLER…] [METHOD] URL`: what would the gate say, and why.

Lives here: arguments to an EgressRequest, an Explanation to the terminal. May not live here: the decision (policy/).
"""

from __future__ import annotations

import time

import click

from outpass.cli import say
from outpass.cli.source import policy_to_ask
from outpass.errors import EXIT_DENY, EXIT_OK, UsageError
from outpass.model import Capability, EgressRequest
from outpass.policy import decide, limits, names
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
    if as_json:
        say.data(told.as_json())
    else:
        for line in told.lines:
            click.echo(line)
    return EXIT_OK if decision.allowed else EXIT_DENY
