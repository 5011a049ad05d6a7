"""What holds of every policy and every request, not only of those that somebody thought of."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import unquote_to_bytes

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from outpass import yamldoc
from outpass.errors import Fault, PolicyError
from outpass.model import Decision, EgressRequest, Verdict
from outpass.policy import names, pattern, schema, wire
from outpass.policy.compiled import compile_policy
from outpass.policy.decide import decide
from outpass.policy.explain import explain
from outpass.policy.match import Index
from outpass.policy.rules import Ceiling, Package, Policy, Rule
from tests.support.policies import NOW, policy

HTTP = "network:http"
HOSTS = ["a.example.com", "b.example.com", "x.a.example.com", "example.com", "10.0.0.7"]
HOST_PATTERNS = [*HOSTS, "*.example.com", "**.example.com", "*.a.example.com"]
PATHS = ["/", "/v1", "/v1/", "/v1/x", "/v1/x/y", "/v2/x", "/v1//x", "/v1%2Fx", "/%76%31/x", "/v1/../x", "/v1/*", "/é"]
GLOBS = ["/**", "/v1/**", "/v1/x", "/v1/*", "/*/x", "/**/y", "/v1/x*/**"]
METHODS = ["GET", "POST"]
PACKAGES = ["app", "stripe", "boto3", "requests", "exe:git", "unattributed"]
ADDRESSES = [None, ("93.184.215.14",), ("10.0.0.7",), ("127.0.0.1",), ("169.254.169.254",), ("93.184.215.14", "10.1.1.1")]

rules = st.builds(
    lambda host, glob, methods, expires, private, via: Rule(
        "p.yaml", 1, "https", host, 443, 443, glob, tuple(methods), via=via, private=private, expires=expires
    ),
    st.sampled_from(HOST_PATTERNS),
    st.sampled_from(GLOBS),
    st.lists(st.sampled_from(METHODS), max_size=1),
    st.sampled_from([None, None, None, NOW - 1, NOW + 1]),
    st.sampled_from([(), (), ("10.0.0.0/8",)]),
    st.sampled_from([(), (), ("boto3",)]),
)
lists = st.one_of(st.just({}), st.lists(rules, max_size=4).map(lambda found: {HTTP: tuple(found)}))
denials = st.lists(rules.map(lambda r: r._replace(expires=None, via=(), private=())), max_size=2).map(
    lambda found: {HTTP: tuple(found)} if found else {}
)


@st.composite
def packages(draw: st.DrawFn, name: str) -> Package:
    allow = frozenset({HTTP}) if draw(st.integers(0, 3)) else frozenset()
    versions = draw(st.sampled_from(["", "", ">=2"])) if name in {"stripe", "boto3"} else ""
    mode = draw(st.sampled_from(["", "", "audit", "enforce"])) if name != "*" else ""
    return Package(name, "p.yaml", 1, allow, draw(lists), draw(denials), versions, mode)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    chosen = draw(st.lists(st.sampled_from([*PACKAGES, "*"]), unique=True))
    ceilings = tuple(
        Ceiling("p.yaml", 1, {HTTP: tuple(found)}) for found in draw(st.lists(st.lists(rules, max_size=3), max_size=1))
    )
    return Policy(
        draw(st.sampled_from(["enforce", "enforce", "audit"])),
        ("requests",),
        (),
        {name: draw(packages(name)) for name in chosen},
        ceilings,
    )


chains = st.lists(st.sampled_from([*PACKAGES, "?", "!stripe", "left-pad"]), max_size=4).map(tuple)


@st.composite
def requests(draw: st.DrawFn) -> EgressRequest:
    chain = draw(chains)
    host_only = draw(st.booleans())
    return EgressRequest(
        HTTP,
        chain,
        tuple(draw(st.sampled_from(["1.0", "2.0", None])) for _ in chain),
        "https",
        draw(st.sampled_from(HOSTS)),
        443,
        None if host_only else draw(st.sampled_from(METHODS)),
        None if host_only else draw(st.sampled_from(PATHS)),
        draw(st.sampled_from(ADDRESSES)),
    )


def answer(policy: Policy, request: EgressRequest) -> Decision:
    return decide(compile_policy(policy), request, now=NOW)


@given(policies(), requests())
def test_every_request_gets_an_answer_that_can_be_explained(policy: Policy, request: EgressRequest) -> None:
    """Invariant: decide() answers everything, never by an internal error, and every answer has words."""
    decision = answer(policy, request)
    assert decision.reason != "internal"
    assert (decision.reason == "allowed") == (decision.verdict is Verdict.ALLOW)
    told = explain(decision)
    json.dumps([told.as_problem(), told.as_json()])
    assert all(line.isprintable() for line in told.lines)


@given(policies(), requests(), st.sampled_from([*PACKAGES, "*"]), rules)
def test_a_deny_rule_only_takes_away(policy: Policy, request: EgressRequest, name: str, rule: Rule) -> None:
    """Invariant: no deny rule turns a request that was denied into one that is not."""
    package = policy.packages.get(name, Package(name, "p.yaml", 1))
    denied = replace(package, deny={HTTP: (*package.deny.get(HTTP, ()), rule)})
    stricter = replace(policy, packages={**policy.packages, name: denied})
    assert answer(policy, request).allowed or not answer(stricter, request).allowed


@given(policies(), requests(), st.lists(rules, max_size=3))
def test_a_ceiling_only_takes_away(policy: Policy, request: EgressRequest, found: list[Rule]) -> None:
    """Invariant: no ceiling turns a request that was denied into one that is not."""
    stricter = replace(policy, ceilings=(*policy.ceilings, Ceiling("c.yaml", 1, {HTTP: tuple(found)})))
    assert answer(policy, request).allowed or not answer(stricter, request).allowed


@given(policies(), requests(), st.sampled_from(["left-pad", "?", "!app", "boto3", "exe:git"]), st.integers(1, 4))
def test_a_caller_more_only_takes_away(policy: Policy, request: EgressRequest, name: str, at: int) -> None:
    """Invariant: whoever else stands in the chain, behind the nearest, lends no rights."""
    assume(request.chain and at <= len(request.chain) and request.chain[0] != "requests")
    longer = request._replace(
        chain=(*request.chain[:at], name, *request.chain[at:]), versions=(*request.versions[:at], "2.0", *request.versions[at:])
    )
    enforcing = replace(policy, mode="enforce", packages={n: replace(p, mode="") for n, p in policy.packages.items()})
    assert answer(enforcing, request).allowed or not answer(enforcing, longer).allowed


@given(policies(), requests())
def test_enforcing_denies_what_audit_would_deny(policy: Policy, request: EgressRequest) -> None:
    """Invariant: audit mode changes verdicts from deny to would_deny, and nothing else."""
    modes = {n: replace(p, mode="") for n, p in policy.packages.items()}
    enforced = answer(replace(policy, mode="enforce", packages=modes), request)
    audited = answer(replace(policy, mode="audit", packages=modes), request)
    if enforced.verdict is Verdict.ALLOW:
        assert audited.verdict is Verdict.ALLOW
    else:
        assert audited.verdict is not Verdict.ALLOW
        assert audited.verdict is Verdict.DENY or audited.reason == enforced.reason


@given(policies(), requests())
def test_floors_hold_whatever_the_policy(policy: Policy, request: EgressRequest) -> None:
    """Invariant: nothing reaches loopback or metadata through a name, in any mode."""
    if request.addresses in {("127.0.0.1",), ("169.254.169.254",)}:
        assert not answer(policy, request).allowed


@given(policies(), requests())
def test_a_gate_answers_as_the_broker_does(policy: Policy, request: EgressRequest) -> None:
    """Invariant: a policy that travelled as JSON has the same digest and gives the same answers."""
    travelled = wire.load(json.loads(json.dumps(wire.dump(policy))))
    assert answer(travelled, request) == answer(policy, request)


@given(policies(), requests())
def test_the_host_stage_never_denies_what_a_request_would_be_allowed(policy: Policy, request: EgressRequest) -> None:
    """Invariant: a CONNECT is let through if any request inside would be; the request itself decides."""
    assume(request.path is not None)
    if answer(policy, request).allowed:
        assert answer(policy, request._replace(path=None, method=None)).allowed


@given(policies(), requests())
@settings(max_examples=60)
def test_the_line_to_add_allows_the_request(found: Policy, request: EgressRequest) -> None:
    """Invariant: a denial's line, pasted beside a policy without ceiling, leaves nothing but a deny rule in the way."""
    found = replace(found, ceilings=(), mode="enforce", packages={n: replace(p, mode="") for n, p in found.packages.items()})
    denied = answer(found, request)
    assume(denied.add is not None and denied.reason not in {"outside_ceiling"})
    added = policy("packages: {}", denied.add or "").packages
    merged = dict(found.packages)
    for name, package in added.items():
        old = merged.get(name, Package(name, "p.yaml", 1))
        both = {HTTP: (*old.lists.get(HTTP, ()), *package.lists[HTTP])}
        merged[name] = replace(old, allow=old.allow | package.allow, lists=both)
    again = answer(replace(found, packages=merged), request)
    assert again.allowed or again.reason in {
        "denied_by_rule", "version_out_of_range", "address_private", "address_loopback", "address_metadata"
    }  # fmt: skip


@given(st.lists(rules, max_size=60), st.sampled_from(HOSTS), st.sampled_from([None, *PATHS[:7]]), st.sampled_from(METHODS))
def test_the_index_finds_what_looking_at_every_rule_finds(found: list[Rule], host: str, path: str | None, method: str) -> None:
    """Invariant: an index differs from a list in speed only."""
    slow = any(
        _host_covers(r.host, host)
        and (r.expires is None or r.expires > NOW)
        and (path is None or ((not r.methods or method in r.methods) and Index([r]).find("https", host, 443, method, path, 0.0)))
        for r in found
    )
    assert (Index(found).find("https", host, 443, method, path, NOW) is not None) == slow


def _host_covers(pattern: str, host: str) -> bool:
    if pattern.startswith("**."):
        return host.endswith(pattern[2:])
    return host.partition(".")[2] == pattern[2:] if pattern.startswith("*.") else host == pattern


@given(st.text(alphabet=st.characters(), max_size=40))
def test_hosts_are_normal_or_refused(text: str) -> None:
    """Invariant: whatever text is a host has one normal form, which is its own; anything else is a ValueError."""
    try:
        normal = names.host(text)
    except ValueError:
        return
    assert names.host(normal) == normal
    assert normal.isascii() and normal == normal.lower() and "%" not in normal


@given(
    st.lists(
        st.sampled_from(["/", ".", "..", "%2e", "%2F", "%5c", "%00", "%25", "a", "%61", ";", "\\", "é", "\ud800", " ", "*"]),
        max_size=12,
    )
)
def test_paths_are_normal_or_refused(parts: list[str]) -> None:
    """Invariant: a path that is not refused holds no dot segment, backslash or control character, however it is decoded."""
    try:
        normal = names.path("/" + "".join(parts))
    except ValueError:
        return
    assert names.path(normal) == normal
    decoded = unquote_to_bytes(normal)
    assert not {b".", b".."} & set(decoded.split(b"/"))
    assert b"\\" not in decoded and not any(c < 32 for c in decoded)


@given(
    st.one_of(st.text(max_size=60), st.from_regex(r"(GET |)https?://[a-z*.:\[\]0-9@]{1,20}/[a-z*./%?#]{0,20}", fullmatch=True))
)
def test_patterns_are_normal_or_refused(text: str) -> None:
    """Invariant: a pattern that parses is shown in a form that parses to the same; any other is a PatternError."""
    for parse in (pattern.http, pattern.socket, pattern.dns, pattern.listen):
        try:
            parsed = parse(text)
        except pattern.PatternError:
            continue
        assert parse(Rule("p.yaml", 1, *parsed).text) == parsed


def _faults(raw: bytes) -> tuple[Fault, ...]:
    try:
        schema.parse([yamldoc.document("p.yaml", raw)])
    except PolicyError as problem:
        return problem.faults
    return ()


@given(
    st.one_of(
        st.binary(max_size=200), st.text(alphabet="version:1packages {}[]-\n\t*&!'\"#,?|>% htp", max_size=120).map(str.encode)
    )
)
def test_any_bytes_are_a_policy_or_faults(raw: bytes) -> None:
    """Invariant: whatever a file holds, it is a policy or a PolicyError with a place for each fault."""
    for fault in _faults(raw):
        assert fault.place.line >= 1 and fault.place.column >= 1
        assert fault.message and "\n" not in fault.message


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.sampled_from(["https://x.example/", "network:http"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["packages", "a", "http", "allow", "deny", "url", "via", "ceiling", "expires", "versions"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(values)
def test_any_shape_is_a_policy_or_faults(value: object) -> None:
    """Invariant: values of any type in any place are faults, never an exception of another kind."""
    text = json.dumps({"version": 1, "packages": {"a": value}, "ceiling": value})
    assert all(fault.message for fault in _faults(text.encode()))
