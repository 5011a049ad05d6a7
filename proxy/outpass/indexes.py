"""Where pip, uv and npm fetch packages from on this machine, by the user's and the system's own configuration.

Lives here: reading those tools' files and variables. May not live here: any index's name (it would be this repository's
opinion), anything of the project that is being run: a cloned repository must not be able to choose where `pip` may go.
"""

from __future__ import annotations

import configparser
import importlib.util
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from outpass.policy.names import format_authority, parse_url

_MAX_BYTES: Final = 1 << 20
_PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")


@dataclass(slots=True)
class Found:
    """Rules for a tool's indexes, and what could not be read on the way."""

    rules: list[dict[str, object]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    replaced: bool = False
    """An index stands in place of the tool's default. Extra indexes and links stand beside it."""


def rules(tool: str, *, env: Mapping[str, str], root: Path = Path("/")) -> Found:
    """HTTP rules (as in a policy) for `pip`, `uv` or `npm`. `root` is where system files are looked for. Never raises."""
    found = Found()
    configured = list(dict.fromkeys(_READERS[tool](env, root, found)))
    for url in configured:
        rule = _rule(url, configured=True)
        if rule is not None and rule not in found.rules:
            found.rules.append(rule)
    if not found.replaced:
        defaults = [rule for url in _default(tool) if (rule := _rule(url, configured=False)) is not None]
        found.rules += [rule for rule in defaults if rule not in found.rules]
        if not found.rules:
            found.problems.append(
                f"{tool} has no index configured and its default cannot be read here, so the preset gives it none"
            )
    return found


def _rule(url: str, *, configured: bool) -> dict[str, object] | None:
    """The whole host of an index, read-only: files often lie outside the index's path. Credentials stay behind."""
    if urlsplit(url).scheme not in {"http", "https"}:
        return None  # a directory or a file: URL needs no network
    scheme, _, rest = url.partition("://")
    where, slash, tail = rest.partition("/")
    try:
        target = parse_url(f"{scheme}://{where.rpartition('@')[2]}{slash}{tail}")
    except ValueError:
        return None
    base = f"{target.scheme}://{format_authority(target.host, target.port)}/"
    # An index that the operator chose is often the company's own, on a private address.
    private = {"private": list(_PRIVATE)} if configured else {}
    return {"url": base, "methods": ["GET", "HEAD"], **private}


def _config_homes(env: Mapping[str, str], root: Path) -> tuple[list[Path], list[Path]]:
    """The user's configuration directories, then the system's."""
    home = env.get("HOME", "")
    user = [Path(env["XDG_CONFIG_HOME"])] if env.get("XDG_CONFIG_HOME") else [Path(home) / ".config"] if home else []
    dirs = env.get("XDG_CONFIG_DIRS", "")
    return user, [Path(d) for d in dirs.split(":") if d.startswith("/")] or [root / "etc/xdg"]


def _read(path: Path, found: Found) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as problem:
        found.problems.append(f"{path} cannot be read: {problem}")
        return None


def _pip(env: Mapping[str, str], root: Path, found: Found) -> Iterator[str]:
    user, system = _config_homes(env, root)
    files = [Path(env["PIP_CONFIG_FILE"])] if env.get("PIP_CONFIG_FILE") else []
    files += [d / "pip/pip.conf" for d in user] + ([Path(env["HOME"]) / ".pip/pip.conf"] if env.get("HOME") else [])
    files += [d / "pip/pip.conf" for d in system] + [root / "etc/pip.conf"]
    layers = [{k: env[f"PIP_{k.upper().replace('-', '_')}"] for k in _PIP_KEYS if env.get(f"PIP_{k.upper().replace('-', '_')}")}]
    layers += [_ini(path, found) for path in files]
    found.replaced = any("index-url" in layer for layer in layers)
    for key in _PIP_KEYS:
        yield from next((layer[key].split() for layer in layers if key in layer), [])


_PIP_KEYS: Final = ("index-url", "extra-index-url", "find-links")


def _ini(path: Path, found: Found) -> dict[str, str]:
    text = _read(path, found)
    if text is None:
        return {}
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except configparser.Error as problem:
        found.problems.append(f"{path} cannot be read: {str(problem).splitlines()[0]}")
        return {}
    sections = [s for s in ("install", "download", "global") if parser.has_section(s)]
    return {k: parser.get(s, k) for k in _PIP_KEYS for s in reversed(sections) if parser.has_option(s, k)}


def _uv(env: Mapping[str, str], root: Path, found: Found) -> Iterator[str]:
    found.replaced = bool(env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL"))
    for key in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"):
        yield from (_unnamed(part) for part in env.get(key, "").split())
    user, system = _config_homes(env, root)
    files = [Path(env["UV_CONFIG_FILE"])] if env.get("UV_CONFIG_FILE") else [d / "uv/uv.toml" for d in user]
    for path in [*files, *(d / "uv/uv.toml" for d in system), root / "etc/uv/uv.toml"]:
        text = _read(path, found)
        try:
            data: dict[str, Any] = tomllib.loads(text) if text else {}
        except tomllib.TOMLDecodeError as problem:
            found.problems.append(f"{path} cannot be read: {problem}")
            continue
        for table in (data, data.get("pip", {})):
            found.replaced |= "index-url" in table or _has_default(table.get("index", []))
            extra = table.get("extra-index-url", [])
            listed = [table.get("index-url"), *(extra if isinstance(extra, list) else []), *(_urls(table.get("index", [])))]
            yield from (url for url in listed if isinstance(url, str))


def _urls(tables: object) -> list[object]:
    return [t.get("url") for t in tables if isinstance(t, dict)] if isinstance(tables, list) else []


def _has_default(tables: object) -> bool:
    return isinstance(tables, list) and any(isinstance(t, dict) and t.get("default") is True for t in tables)


def _unnamed(text: str) -> str:
    """uv writes NAME=URL."""
    name, equals, url = text.partition("=")
    return url if equals and "://" not in name else text


def _npm(env: Mapping[str, str], root: Path, found: Found) -> Iterator[str]:
    named = [env[k] for k in ("npm_config_registry", "NPM_CONFIG_REGISTRY") if env.get(k)]
    found.replaced = bool(named)
    yield from named
    user = env.get("NPM_CONFIG_USERCONFIG") or (str(Path(env["HOME"]) / ".npmrc") if env.get("HOME") else "")
    for path in [*([Path(user)] if user else []), Path(env.get("NPM_CONFIG_GLOBALCONFIG", root / "etc/npmrc"))]:
        for line in (_read(path, found) or "").splitlines():
            match = re.fullmatch(r"\s*(?:@[^:=\s]+:)?registry\s*=\s*(\S+)\s*", line)
            if match:
                found.replaced = True
                yield match[1].strip("\"'")


_READERS: Final = {"pip": _pip, "uv": _uv, "npm": _npm}


def _default(tool: str) -> list[str]:
    """pip's own default index and file host, as its source says it (uv has the same); npm's is not written where Python is."""
    if tool == "npm":
        return []
    source = _pip_source()
    found = re.search(r'PyPI\s*=\s*PackageIndex\(\s*"(https://[^"]+)"\s*,\s*file_storage_domain="([^"]+)"', source)
    return [found[1], f"https://{found[2]}/"] if found else []


def _pip_source() -> str:
    """pip/_internal/models/index.py of this interpreter: installed, or inside the wheel that ensurepip carries."""
    inside = "pip/_internal/models/index.py"
    try:
        spec = importlib.util.find_spec("pip")
        if spec is not None and spec.origin is not None:
            return (Path(spec.origin).parent.parent / inside).read_text("utf-8")
        lib = Path(sys.base_prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "ensurepip/_bundled"
        for wheel in sorted(lib.glob("pip-*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                return archive.read(inside).decode("utf-8")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return ""
    return ""
