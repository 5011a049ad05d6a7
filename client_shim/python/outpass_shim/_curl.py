"""libcurl: pycurl and curl_cffi go through the gate with a pass of whoever performs the transfer, and trust the outpass CA.

Lives here: the options that are set on a handle just before it runs. May not live here: a handle whose program named another
proxy, or a Unix socket: it goes where it was told to, which is not through the gate with a pass of ours.

Most versions of libcurl reuse a connection to a proxy whatever the credentials are, so each chain has an address of its own on
loopback to connect from: those libcurl does compare, and no transfer travels in somebody else's tunnel.
"""

import os

from outpass_shim import _boot, _guard, _lent
from outpass_shim._registry import Any

_WATCHED = ("URL", "PROXY", "PROXYHEADER", "CAINFO", "UNIX_SOCKET_PATH")
_LONG_NAMES = 0x075400
"""libcurl 7.84; early ones cut a user name after 255 characters, so they get a header."""
_numbers: "dict[str, int]" = {}
"""Pass → number of its address."""
_bundles: "dict[str, str]" = {}
"""A program's CA file → a file with the outpass CA behind it."""


def patch_pycurl(module: Any) -> None:
    """pycurl.Curl and CurlMulti: types of C, so subclasses take their place."""
    names = {getattr(module, name): name for name in _WATCHED if hasattr(module, name)}

    long_names = module.version_info()[2] >= _LONG_NAMES

    class Curl(module.Curl):  # type: ignore[misc]
        def setopt(self, option: Any, value: Any) -> Any:
            if option in names:
                _chosen(self)[names[option]] = value
            return super().setopt(option, value)

        def unsetopt(self, option: Any) -> Any:
            _chosen(self).pop(names.get(option, ""), None)
            return super().unsetopt(option)

        def reset(self) -> Any:
            _chosen(self).clear()
            return super().reset()

        def perform(self) -> Any:
            _prepare(self, super().setopt, module, long_names)
            return super().perform()

        def perform_rs(self) -> Any:
            _prepare(self, super().setopt, module, long_names)
            return super().perform_rs()

        def perform_rb(self) -> Any:
            _prepare(self, super().setopt, module, long_names)
            return super().perform_rb()

    class CurlMulti(module.CurlMulti):  # type: ignore[misc]
        def add_handle(self, handle: Any) -> Any:
            if isinstance(handle, Curl):
                _prepare(handle, super(Curl, handle).setopt, module, long_names)
            return super().add_handle(handle)

    module.Curl, module.CurlMulti = Curl, CurlMulti


def patch_cffi(module: Any) -> None:
    """curl_cffi.curl.Curl: setopt, reset, perform; and AsyncCurl.add_handle, which calls _ensure_cacert before it begins."""
    curl, options = module.Curl, module.CurlOpt
    names = {getattr(options, name): name for name in _WATCHED}
    set_option, reset, ensure = curl.setopt, curl.reset, curl._ensure_cacert

    def setopt(self: Any, option: Any, value: Any) -> Any:
        if option in names:
            _chosen(self)[names[option]] = value
        return set_option(self, option, value)

    def reset_all(self: Any) -> Any:
        _chosen(self).clear()
        return reset(self)

    def _ensure_cacert(self: Any) -> Any:
        result = ensure(self)
        _prepare(self, lambda option, value: set_option(self, option, value.encode()), options)
        return result

    curl.setopt, curl.reset, curl._ensure_cacert = setopt, reset_all, _ensure_cacert


def _chosen(handle: Any) -> "dict[str, Any]":
    """What the program set on this handle, of what matters here."""
    found: dict[str, Any] = handle.__dict__.setdefault("_outpass", {})
    return found


def _prepare(handle: Any, setopt: Any, options: Any, long_names: bool = True) -> None:
    chosen = _chosen(handle)
    proxy = _text(chosen.get("PROXY"))
    elsewhere = proxy and proxy.rstrip("/").rpartition("@")[2].rpartition("/")[2] != _boot.PROXY
    if chosen.get("UNIX_SOCKET_PATH") or elsewhere or _guard.is_local((_host(_text(chosen.get("URL"))), "")):
        return
    found = _lent.lent() if _boot.PROXY else None
    if found is None:
        return
    setopt(options.PROXY, "http://" + _boot.PROXY)
    if long_names:
        setopt(options.PROXYUSERNAME, found[1])
        setopt(options.PROXYPASSWORD, "x")
    else:
        theirs = [h for h in chosen.get("PROXYHEADER") or () if not _text(h).lower().startswith("proxy-authorization:")]
        setopt(options.PROXYHEADER, [*theirs, "Proxy-Authorization: Bearer " + found[1]])
        setopt(options.HEADEROPT, options.HEADER_SEPARATE)
    number = _numbers.setdefault(found[1], len(_numbers) + 1) & 0xFFFF
    setopt(options.INTERFACE, f"127.77.{number >> 8}.{number & 0xFF}")
    bundle = _bundle(_text(chosen.get("CAINFO")))
    if bundle:
        setopt(options.CAINFO, bundle)


def _host(url: str) -> str:
    place = url.rpartition("://")[2].split("/", 1)[0].split("?", 1)[0].rpartition("@")[2]
    return place[1:].partition("]")[0] if place[:1] == "[" else place.partition(":")[0]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _bundle(own: str) -> str:
    """The CA file to use in place of the program's `own`; "": none."""
    if not own:
        return os.environ.get("SSL_CERT_FILE", "")
    if not _boot.CA or own == os.environ.get("SSL_CERT_FILE"):
        return own
    if own not in _bundles:
        with open(own, "rb") as theirs, open(_boot.CA, "rb") as ours:
            content = theirs.read() + b"\n" + ours.read()
        fd = os.memfd_create("outpass-ca")
        os.write(fd, content)
        _bundles[own] = f"/proc/self/fd/{fd}"
    return _bundles[own]
