"""The shape of a policy file, key by key: what pydantic checks, and what the JSON Schema for editors is made from.

Lives here: one model per mapping, each field with the text that editors show. May not live here: what patterns and names
mean (schema.py), positions (document.py). Unknown keys are errors everywhere: a misspelt `deny` must not be an empty one.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

CapabilityName = Literal[
    "network:http", "network:fetch", "network:socket", "network:dns", "network:listen", "network:all", "network:web"
]
ModeName = Literal["enforce", "audit"]


class Shape(BaseModel):
    """Base of all: closed, strict, immutable."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


class LimitsEntry(Shape):
    """How much, at most, in any window of time; counted over all gates of a jail."""

    rps: int | float | None = Field(
        default=None, description="Requests (or raw connections) in any second; below 1: one in 1/rps seconds."
    )
    bytes_out: str | None = Field(
        default=None, description="Bytes sent, heads and bodies, in any window: 2MiB/min (units B to TB and TiB; s, min, h, day)."
    )
    bytes_in: str | None = Field(default=None, description="Bytes received, as bytes_out.")


class _Said(Shape):
    owner: str = Field(default="", description="Who answers for this rule.")
    why: str = Field(default="", description="Why it is there: a sentence or a ticket.")


class _Granted(_Said):
    via: list[str] = Field(
        default=[],
        description="Packages that may stand above in the chain without rights of their own (frameworks over a driver).",
    )
    multi_tenant: bool = Field(
        default=False, description="Needed for a wildcard over a host whose names belong to different owners."
    )
    expires: str = Field(
        default="",
        description="Date (2027-06-30: through the end of that day, UTC) or date and time after which it grants nothing.",
    )


class _Dialled(_Granted):
    private: list[str] = Field(
        default=[],
        description="Private networks (CIDR) that the name may resolve to; without them only public addresses are dialled.",
    )
    limits: LimitsEntry = Field(default_factory=LimitsEntry, description="How much may go this way, all together.")


class HttpRule(_Dialled):
    """A URL pattern with what else may be said about it."""

    url: str = Field(description="https://host[:port]/path; * in one path segment, ** any depth, a trailing / means /**.")
    methods: list[str] = Field(default=[], description="HTTP methods, exact case; none: any.")
    intercept: bool = Field(
        default=True, description="false: the tunnel is not looked into; then the rule can name no path or method."
    )


class SocketRule(_Dialled):
    """A raw TCP (or udp://) destination."""

    to: str = Field(description="host:port, host:low-high or network/prefix:port.")


class DnsRule(_Granted):
    """A name that may be queried."""

    name: str = Field(description="A name, *.name or **.name.")


class ListenRule(_Said):
    """A port that may be listened on."""

    at: str | int = Field(description="port, low-high or address:port.")
    expires: str = Field(default="", description="As in the other lists.")


class HttpDeny(_Said):
    """A URL pattern that no rule opens."""

    url: str = Field(description="As in http lists.")
    methods: list[str] = Field(default=[], description="HTTP methods that are denied; none: all.")


class SocketDeny(_Said):
    """A raw destination that no rule opens."""

    to: str = Field(description="As in socket lists.")


class DnsDeny(_Said):
    """A name that no rule opens."""

    name: str = Field(description="As in dns lists.")


class ListenDeny(_Said):
    """A port that no rule opens."""

    at: str | int = Field(description="As in listen lists.")


def _form(value: Any) -> str:
    """Which of the two forms an entry is written in; decides which errors a person sees."""
    return "map" if isinstance(value, dict | BaseModel) else "text"


_Text = Annotated[str, Tag("text")]
_Either = Discriminator(_form)
HttpEntry = Annotated[_Text | Annotated[HttpRule, Tag("map")], _Either]
SocketEntry = Annotated[_Text | Annotated[SocketRule, Tag("map")], _Either]
DnsEntry = Annotated[_Text | Annotated[DnsRule, Tag("map")], _Either]
ListenEntry = Annotated[Annotated[str | int, Tag("text")] | Annotated[ListenRule, Tag("map")], _Either]
HttpDenyEntry = Annotated[_Text | Annotated[HttpDeny, Tag("map")], _Either]
SocketDenyEntry = Annotated[_Text | Annotated[SocketDeny, Tag("map")], _Either]
DnsDenyEntry = Annotated[_Text | Annotated[DnsDeny, Tag("map")], _Either]
ListenDenyEntry = Annotated[Annotated[str | int, Tag("text")] | Annotated[ListenDeny, Tag("map")], _Either]


class DenyLists(Shape):
    """Destinations that are denied whatever else is said: deny beats allow, over files and over the chain."""

    http: list[HttpDenyEntry] = Field(default=[], description="For network:http.")
    fetch: list[HttpDenyEntry] = Field(default=[], description="For network:fetch.")
    socket: list[SocketDenyEntry] = Field(default=[], description="For network:socket.")
    dns: list[DnsDenyEntry] = Field(default=[], description="For network:dns.")
    listen: list[ListenDenyEntry] = Field(default=[], description="For network:listen.")


class PackageEntry(Shape):
    """What one package may do: the capabilities, and for each the destinations."""

    allow: list[CapabilityName] = Field(
        default=[], description="Capabilities; network:all and network:web (http + fetch) are shorthands."
    )
    http: list[HttpEntry] = Field(default=[], description="Destinations of network:http; no list: any public one.")
    fetch: list[HttpEntry] = Field(default=[], description="Destinations of network:fetch.")
    socket: list[SocketEntry] = Field(default=[], description="Destinations of network:socket.")
    dns: list[DnsEntry] = Field(default=[], description="Names that network:dns may query.")
    listen: list[ListenEntry] = Field(default=[], description="Ports that network:listen may open.")
    deny: DenyLists = Field(default_factory=DenyLists, description="Destinations that are denied whatever else is said.")
    versions: str = Field(default="", description="PEP 440 specifiers, for example >=11,<13; another version holds no rights.")
    limits: LimitsEntry = Field(default_factory=LimitsEntry, description="How much the package may do in all.")
    mode: ModeName = Field(default="enforce", description="audit: let this package through, and record would_deny.")


class CeilingEntry(Shape):
    """What the whole process may reach, whoever asks; a capability without a list here reaches nothing."""

    http: list[HttpDenyEntry] = Field(default=[], description="For network:http.")
    fetch: list[HttpDenyEntry] = Field(default=[], description="For network:fetch.")
    socket: list[SocketDenyEntry] = Field(default=[], description="For network:socket.")
    dns: list[DnsDenyEntry] = Field(default=[], description="For network:dns.")
    listen: list[ListenDenyEntry] = Field(default=[], description="For network:listen.")


class PolicyFile(Shape):
    """An outpass policy, version 1."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True, title="outpass policy")

    version: Literal[1] = Field(description="The version of this format.")
    mode: ModeName = Field(default="enforce", description="enforce (default), or audit: let through and record would_deny.")
    include: list[str] = Field(default=[], description="preset:NAME, or a file relative to this one; allows and denies unite.")
    transparent: list[str] = Field(default=[], description="Packages that are skipped when charging: their caller is charged.")
    instruments: list[str] = Field(
        default=[], description="Packages (globs) that are skipped only where an HTTP library or the standard library calls them."
    )
    ceiling: CeilingEntry = Field(default_factory=CeilingEntry, description="What the whole process may reach, whoever asks.")
    programs: dict[str, list[str]] = Field(
        default={},
        description="What exe:NAME stands for: globs of absolute paths, or `GLOB SCRIPT-GLOB` for a script and its interpreter.",
    )
    packages: dict[str, PackageEntry] = Field(
        default={}, description="By name: a package, pkg:npm/NAME, exe:PROGRAM, app, * (any code), unattributed."
    )
