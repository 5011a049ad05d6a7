"""A real client's TLS hello, as bytes, with an extension put into it.

Lives here: that. May not live here: what is expected of it. The handshake cannot be finished: the client knows another hello.
"""

from __future__ import annotations

import ssl


def client_hello(name: str, extension: tuple[int, bytes] | None = None) -> bytes:
    """The first flight of OpenSSL for `name`, in one record, with `extension` (its number and content) added."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    try:
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    record = sent.read()
    if extension is None:
        return record
    body = record[9:]
    at = 34
    at += 1 + body[at]  # session id
    at += 2 + int.from_bytes(body[at : at + 2], "big")  # cipher suites
    at += 1 + body[at]  # compression methods
    extensions = body[at + 2 :]
    number, content = extension
    # In front: a pre-shared key, where there is one, must stay the last (RFC 8446, section 4.2.11).
    extensions = number.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content + extensions
    body = body[:at] + len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return record[:3] + len(message).to_bytes(2, "big") + message
