"""The closed list of reasons that a decision can give: a code, its HTTP status, a sentence and a hint.

Lives here: the enum and its table; the docs are generated from it. May not live here: anything about one request.
A code is a contract (audit schema v1, problem+json `code`): codes are added, never renamed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Reason(StrEnum):
    """Why the answer is what it is."""

    ALLOWED = "allowed"
    # the policy
    NO_CAPABILITY = "no_capability"
    NO_RULE = "no_rule"
    DENIED_BY_RULE = "denied_by_rule"
    OUTSIDE_CEILING = "outside_ceiling"
    UNPROVEN = "unproven"
    UNATTRIBUTED = "unattributed"
    VERSION_OUT_OF_RANGE = "version_out_of_range"
    EXPIRED = "expired"
    LIMIT_RPS = "limit_rps"
    LIMIT_BYTES_OUT = "limit_bytes_out"
    LIMIT_BYTES_IN = "limit_bytes_in"
    # the addresses a name resolves to
    ADDRESS_PRIVATE = "address_private"
    ADDRESS_LOOPBACK = "address_loopback"
    ADDRESS_METADATA = "address_metadata"
    ADDRESS_RESERVED = "address_reserved"
    RESOLVE_FAILED = "resolve_failed"
    ADDRESS_UNKNOWN = "address_unknown"
    # name look-ups
    DNS_TYPE = "dns_type"
    DNS_LIMIT = "dns_limit"
    DNS_SEARCH = "dns_search"
    # the pass
    PASS_MISSING = "pass_missing"
    PASS_MALFORMED = "pass_malformed"
    PASS_FORGED = "pass_forged"
    PASS_EXPIRED = "pass_expired"
    PASS_REPLAYED = "pass_replayed"
    PASS_DUPLICATED = "pass_duplicated"
    PASS_FOREIGN_JAIL = "pass_foreign_jail"
    PASS_WRONG_DESTINATION = "pass_wrong_destination"
    PASS_WRONG_USE = "pass_wrong_use"
    PASS_SESSION_ENDED = "pass_session_ended"
    # the request itself
    BAD_REQUEST = "bad_request"
    BAD_HEADER = "bad_header"
    BAD_TARGET = "bad_target"
    BAD_HOST = "bad_host"
    USERINFO = "userinfo"
    HEAD_TOO_LARGE = "head_too_large"
    TARGET_TOO_LONG = "target_too_long"
    CLIENT_TIMEOUT = "client_timeout"
    FLOOD = "flood"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    AUTHORITY_MISMATCH = "authority_mismatch"
    SNI_MISMATCH = "sni_mismatch"
    SNI_MISSING = "sni_missing"
    UNSUPPORTED = "unsupported"
    # upstream
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    PROXY_UNREACHABLE = "proxy_unreachable"
    PROXY_REFUSED = "proxy_refused"
    PROXY_CREDENTIALS = "proxy_credentials"
    UPSTREAM_TLS = "upstream_tls"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_PROTOCOL = "upstream_protocol"
    # outpass itself
    INTERNAL = "internal"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    BROKER_UNAVAILABLE = "broker_unavailable"
    DRAINING = "draining"
    GATE_LOST = "gate_lost"
    # sessions
    NOT_REGISTERED = "not_registered"
    SPAWN_PASS_REQUIRED = "spawn_pass_required"
    SESSION_REFUSED = "session_refused"
    PROTOCOL_UNKNOWN = "protocol_unknown"


class Entry(NamedTuple):
    """What a reason says: HTTP status of the refusal, one sentence, what to do."""

    status: int
    sentence: str
    hint: str


ENTRIES: Final[dict[Reason, Entry]] = {
    Reason.ALLOWED: Entry(200, "a rule allows it", ""),
    Reason.NO_CAPABILITY: Entry(403, "the package was not given this capability", "add it to the package's allow list"),
    Reason.NO_RULE: Entry(403, "no rule of the package covers this destination", "add the line shown to its list"),
    Reason.DENIED_BY_RULE: Entry(403, "a deny rule covers it, and deny beats allow", "change the deny rule that is named"),
    Reason.OUTSIDE_CEILING: Entry(403, "the policy's ceiling for the whole process does not reach this far", "widen ceiling:"),
    Reason.UNPROVEN: Entry(
        403,
        "the code that asked claims a package that it cannot be shown to belong to",
        "is it the application's own, in another directory? name that with --root DIR; "
        "a file that changed after the start? start again; else see the chain in outpass log",
    ),
    Reason.UNATTRIBUTED: Entry(
        403,
        "nothing says which package asked: native code connected past the shim, a program that has no exe: name, "
        "or a Python that was started without outpass's environment (env={})",
        "name the program in programs:, or give unattributed a rule, which anything in the jail can then use",
    ),
    Reason.VERSION_OUT_OF_RANGE: Entry(
        403,
        "the installed version is not one that the policy grants rights to",
        "review the new version, then widen versions:",
    ),
    Reason.EXPIRED: Entry(403, "the rule that covers it has expired", "renew expires: on the rule that is named"),
    Reason.LIMIT_RPS: Entry(
        429, "the limit on requests a second is used up", "see limits: of the rule that is named; Retry-After says when"
    ),
    Reason.LIMIT_BYTES_OUT: Entry(
        429, "the limit on bytes sent is used up", "see limits: of the rule that is named; Retry-After says when"
    ),
    Reason.LIMIT_BYTES_IN: Entry(
        429, "the limit on bytes received is used up", "see limits: of the rule that is named; Retry-After says when"
    ),
    Reason.ADDRESS_PRIVATE: Entry(
        403, "the name resolves to a private address", "add private: [CIDR] to the rule if that is meant"
    ),
    Reason.ADDRESS_LOOPBACK: Entry(
        403, "the name resolves to a loopback address", "only a rule that names the literal address reaches it"
    ),
    Reason.ADDRESS_METADATA: Entry(
        403,
        "the name resolves to a link-local or metadata address",
        "only a rule that names the literal address reaches it",
    ),
    Reason.ADDRESS_RESERVED: Entry(
        403,
        "the name resolves to a multicast, reserved or documentation address",
        "only a rule that names the literal address reaches it",
    ),
    Reason.RESOLVE_FAILED: Entry(502, "the name does not resolve", "check the name and the machine's resolver"),
    Reason.ADDRESS_UNKNOWN: Entry(
        403, "the address stands for no name in this jail", "look the name up again: an address is forgotten when nobody used it"
    ),
    Reason.DNS_TYPE: Entry(
        403,
        "a jail's nameserver answers for addresses only",
        "packages with network:dns make other queries through the shim",
    ),
    Reason.DNS_LIMIT: Entry(
        429, "there were too many look-ups, or too much text in them", "see proxy/README.md, limits of look-ups"
    ),
    Reason.DNS_SEARCH: Entry(
        403, "no rule names what a search list makes of the name", "nothing: a resolver tries the next name by itself"
    ),
    Reason.PASS_MISSING: Entry(
        407,
        "the request carries no pass",
        "a program without a shim has none: no Python, one started with -I, -S or an empty environment, or outside outpass run",
    ),
    Reason.PASS_MALFORMED: Entry(403, "the pass cannot be read", "a pass is used once, as it was issued"),
    Reason.PASS_FORGED: Entry(403, "the pass was not signed by this broker", "a pass is used once, as it was issued"),
    Reason.PASS_EXPIRED: Entry(403, "the pass is older than it may be", "ask for a new pass for each request"),
    Reason.PASS_REPLAYED: Entry(403, "the pass was used before", "ask for a new pass for each request"),
    Reason.PASS_DUPLICATED: Entry(400, "the request carries more than one pass", "send exactly one"),
    Reason.PASS_FOREIGN_JAIL: Entry(403, "the pass was issued to another jail", "a pass is good where it was issued"),
    Reason.PASS_WRONG_DESTINATION: Entry(403, "the pass was issued for another destination", "ask for a pass for this one"),
    Reason.PASS_WRONG_USE: Entry(403, "the pass was issued for another use", "CONNECT and request each need their own"),
    Reason.PASS_SESSION_ENDED: Entry(403, "the process that the pass was issued to has ended", "start the program again"),
    Reason.BAD_REQUEST: Entry(400, "the request is not valid HTTP", ""),
    Reason.BAD_HEADER: Entry(400, "a header holds a character that no header may hold", ""),
    Reason.BAD_TARGET: Entry(
        400,
        "the request target is not one that can be judged",
        "write the path without . and .. segments and without backslashes",
    ),
    Reason.BAD_HOST: Entry(400, "the host is not a valid name or address", ""),
    Reason.USERINFO: Entry(400, "the URL holds a user name or password", "send credentials in a header"),
    Reason.HEAD_TOO_LARGE: Entry(431, "the request head is too large", ""),
    Reason.TARGET_TOO_LONG: Entry(414, "the request target is too long", ""),
    Reason.CLIENT_TIMEOUT: Entry(408, "the client did not send or read in time", "see proxy/README.md, bounds of the gate"),
    Reason.FLOOD: Entry(
        429, "the client sends more control frames or resets than any honest one", "see proxy/README.md, bounds of the gate"
    ),
    Reason.TOO_MANY_CONNECTIONS: Entry(
        503, "the jail has as many connections as its share of the gate allows", "see proxy/README.md, bounds of the gate"
    ),
    Reason.AUTHORITY_MISMATCH: Entry(421, "the request names another host than its tunnel", ""),
    Reason.SNI_MISMATCH: Entry(421, "the TLS server name is another than the tunnel's host", ""),
    Reason.SNI_MISSING: Entry(421, "the TLS handshake names no server", "use a client that sends SNI"),
    Reason.UNSUPPORTED: Entry(501, "the gate does not carry this", "see SECURITY.md, what is refused"),
    Reason.UPSTREAM_UNREACHABLE: Entry(502, "the origin cannot be reached", ""),
    Reason.PROXY_UNREACHABLE: Entry(
        502, "the upstream proxy cannot be reached, or its certificate not verified", "see --upstream-proxy and --upstream-ca"
    ),
    Reason.PROXY_REFUSED: Entry(502, "the upstream proxy refuses the destination", "ask whoever runs that proxy"),
    Reason.PROXY_CREDENTIALS: Entry(
        502, "the upstream proxy does not accept the credentials", "put them into its URL, percent-encoded; see --upstream-proxy"
    ),
    Reason.UPSTREAM_TLS: Entry(502, "the origin's certificate cannot be verified", "see --upstream-ca for a private CA"),
    Reason.UPSTREAM_TIMEOUT: Entry(504, "the origin did not answer in time", ""),
    Reason.UPSTREAM_PROTOCOL: Entry(502, "the origin's answer is not valid HTTP", ""),
    Reason.INTERNAL: Entry(500, "outpass failed while deciding, so it refused", "report the id with outpass log"),
    Reason.AUDIT_UNAVAILABLE: Entry(503, "decisions cannot be recorded, so none is made", "free space for the audit log"),
    Reason.BROKER_UNAVAILABLE: Entry(503, "the broker that issues passes is gone", "start the program again"),
    Reason.DRAINING: Entry(503, "the gate is shutting down", ""),
    Reason.GATE_LOST: Entry(
        503, "a gate process ended or hung and was replaced", "its last words are on the daemon's standard error; report them"
    ),
    Reason.NOT_REGISTERED: Entry(403, "this process was not started by outpass run", "start it with outpass run -- CMD"),
    Reason.SPAWN_PASS_REQUIRED: Entry(
        403,
        "the process was started by one that has a session, without its spawn pass",
        "keep OUTPASS_SPAWN in its environment",
    ),
    Reason.SESSION_REFUSED: Entry(403, "the broker gives this process no session", ""),
    Reason.PROTOCOL_UNKNOWN: Entry(403, "the shim speaks a version that this broker does not know", "upgrade outpass"),
}
