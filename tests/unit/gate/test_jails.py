"""What a jail asks its policy about connections that are open, and which it ends."""

from __future__ import annotations

from collections.abc import Callable

from outpass.gate.jails import Jail
from outpass.gate.opaque import Opaque
from outpass.model import Decision, EgressRequest, Verdict
from outpass.reasons import Reason


def asked(host: str, scheme: str = "tcp") -> EgressRequest:
    return EgressRequest("network:socket", ("app",), (None,), scheme, host, 7)


def jail_with(decide: Callable[[EgressRequest], Decision], requests: list[EgressRequest]) -> tuple[Jail, list[EgressRequest]]:
    """The jail, and the requests of the tunnels that it cut."""
    jail, cut = Jail("j", "attributed", "no-jail", decide), []  # type: tuple[Jail, list[EgressRequest]]
    for request in requests:
        jail.clients.add(Opaque(request, None, lambda _, r=request: cut.append(r)))  # type: ignore[misc]
    return jail, cut


def decision(request: EgressRequest, verdict: Verdict, *, intercept: bool = True) -> Decision:
    return Decision(verdict, Reason.ALLOWED, request, "app", None, None, None, None, "d", intercept)


def test_a_sweep_asks_each_question_once_and_cuts_every_tunnel_that_it_denies() -> None:
    questions: list[EgressRequest] = []

    def decide(request: EgressRequest) -> Decision:
        questions.append(request)
        return decision(request, Verdict.DENY if request.host == "b.test" else Verdict.ALLOW)

    jail, cut = jail_with(decide, [asked("a.test")] * 50 + [asked("b.test")] * 50)
    assert jail.sweep() == 50 and cut == [asked("b.test")] * 50
    assert sorted(q.host for q in questions) == ["a.test", "b.test"]
    jail.sweep()
    assert len(questions) == 4, "and asks again the next time: a rule may have expired"


def test_a_tunnel_that_is_to_be_looked_into_is_cut_and_raw_tcp_is_not() -> None:
    web, raw = asked("a.test", "https"), asked("a.test")
    jail, cut = jail_with(lambda r: decision(r, Verdict.ALLOW, intercept=True), [web, raw])
    jail.sweep()
    assert cut == [web]
    jail, cut = jail_with(lambda r: decision(r, Verdict.ALLOW, intercept=False), [web, raw])
    jail.sweep()
    assert cut == []
