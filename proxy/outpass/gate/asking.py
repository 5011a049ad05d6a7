"""What a request asks for and who asks, in the terms of policy: target, asker, question.

Lives here: which header counts where (CONNECT, a tunnel, absolute form), and the EgressRequest. May not live here: the answer
(policy/), what is done about it (addon.py).
"""

from __future__ import annotations

from collections.abc import Container

from mitmproxy import http

from outpass.errors import PassError
from outpass.gate import principal, translate
from outpass.gate.client import Client, Tunnel
from outpass.gate.head import PROXY_PASS_HEADER, TOKEN_HEADER
from outpass.gate.pins import Pin
from outpass.gate.principal import UNATTRIBUTED, Asker, Passes
from outpass.gate.translate import Refused, Target
from outpass.model import EgressRequest
from outpass.passes.token import Pass


class Asking:
    """Reads targets and passes off requests; burns what it reads. Every method raises Refused."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes

    def connect(self, client: Client, request: http.Request) -> tuple[str, int, Pass | None]:
        """Host, port and pass of a CONNECT; no pass where the request carries none."""
        host, port = translate.connect_target(request)
        value = translate.index(request).get(PROXY_PASS_HEADER)
        if value is None:
            return host, port, None
        return host, port, self._admit(client, value, host, port, principal.CONNECT_USES, proxy=True)

    def request(self, client: Client, request: http.Request, fields: dict[bytes, bytes]) -> tuple[Target, Asker]:
        """Target and asker of any other request; UNATTRIBUTED (that very object) where it carries no pass."""
        tunnel = client.tunnel
        if tunnel is None:
            target = translate.absolute_target(request)
            value = fields.get(PROXY_PASS_HEADER)
            if value is None:
                return target, bare(client)
            p = self._admit(client, value, target.host, target.port, principal.REQUEST_USES, proxy=True)
            return target, by_pass(client, p)
        if tunnel.flaw is not None:
            raise Refused(*tunnel.flaw)
        target = translate.inner_target(request, fields, tunnel.host, tunnel.port, "https" if tunnel.tls else "http")
        value = fields.get(TOKEN_HEADER)
        if value is not None:
            p = self._admit(client, value, target.host, target.port, principal.INNER_USES, proxy=False)
            return target, principal.of_pass(p)
        return target, self._covering(tunnel)

    def _covering(self, tunnel: Tunnel) -> Asker:
        """Who asks in a tunnel without a pass on the request: whoever the tunnel is charged to, or nobody known."""
        if tunnel.asker is None:
            return UNATTRIBUTED
        try:
            if tunnel.spawn is not None:
                self._passes.still_good(tunnel.spawn)
            self._passes.check_session(tunnel.asker.sid)
        except PassError as error:
            raise Refused(error.reason, error.message) from None
        return tunnel.asker

    def _admit(self, client: Client, value: bytes, host: str, port: int, uses: Container[str], *, proxy: bool) -> Pass:
        try:
            text = principal.pass_in(value) if proxy else value.decode("latin-1")
            return self._passes.admit(text, jail=client.jail.id, host=host, port=port, uses=uses)
        except PassError as error:
            raise Refused(error.reason, error.message) from None


def needs_program(client: Client, request: http.Request) -> bool:
    """Whether it matters which program this is, and the broker was not asked yet: no pass, or one that a program was lent."""
    if client.native is not None or client.tunnel is not None:
        return False
    value = translate.index(request).get(PROXY_PASS_HEADER)
    return value is None or value[:6].lower() == b"basic "


def by_pass(client: Client, p: Pass) -> Asker:
    """Who asks with a pass: its chain, and before it the program that its chain spawned, where that is one."""
    asker = principal.of_pass(p)
    if p.use != "spawn" or client.native is None or client.native.program is None:
        return asker
    return asker._replace(chain=(client.native.program, *asker.chain), versions=(None, *asker.versions))


def bare(client: Client) -> Asker:
    """Who asks without a pass: the program that it is, or UNATTRIBUTED (that very object)."""
    return UNATTRIBUTED if client.native is None else client.native.asker


def question(client: Client, asker: Asker, target: Target, pin: Pin | None = None) -> EgressRequest:
    """What policy is asked about a request; `pin` once its addresses are known."""
    return EgressRequest(
        asker.capability,
        asker.chain,
        asker.versions,
        target.scheme,
        target.host,
        target.port,
        target.method,
        target.path,
        None if pin is None else pin.decided,
        pin is not None and pin.override,
        client.jail.tier,
    )


def host_question(client: Client, asker: Asker, host: str, port: int) -> EgressRequest:
    """What policy is asked about a CONNECT: whether anything at all is allowed there."""
    return EgressRequest(asker.capability, asker.chain, asker.versions, "https", host, port, tier=client.jail.tier)
