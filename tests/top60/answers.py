"""What the fake web server says to each row that needs more than its default answer.

Lives here: bodies. May not live here: who gets which (the rows).
"""

from __future__ import annotations

import io
import zipfile
from typing import Final

import dns.message
import dns.rrset

from tests.support.origin import Answer


def wheel(name: str, version: str) -> dict[str, Answer | bytes]:
    """An index with one wheel, empty but for what makes it one."""
    made, file, info = io.BytesIO(), f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    page = f'<!DOCTYPE html><html><body><a href="/{file}">{file}</a></body></html>'
    return {f"/simple/{name}/": page.encode(), f"/{file}": Answer(made.getvalue())}


def _address() -> bytes:
    answer = dns.message.make_response(dns.message.make_query("answer.example.com", "A", id=0))
    answer.answer.append(dns.rrset.from_text("answer.example.com.", 60, "IN", "A", "192.0.2.42"))
    return answer.to_wire()


JWKS: Final = {
    "keys": [{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "k1", "alg": "HS256", "use": "sig"}]
}
ADDRESS: Final = _address()
"""Of answer.example.com, as a nameserver says it."""
EVENTS: Final = Answer(b"data: one\n\ndata: two\n\n", "text/event-stream")
REFS: Final = {
    "/repo.git/info/refs": Answer(b"1" * 40 + b"\trefs/heads/main\n", "text/plain"),
    "/repo.git/HEAD": Answer(b"ref: refs/heads/main\n", "text/plain"),
}
"""A repository as a server without git's own protocol shows it."""
BUCKETS: Final = (
    b'<?xml version="1.0"?><ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>o</ID></Owner><Buckets>'
    b"<Bucket><Name>b42</Name><CreationDate>2026-01-01T00:00:00.000Z</CreationDate></Bucket></Buckets></ListAllMyBucketsResult>"
)
KEYS: Final = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><KeyCount>1</KeyCount>'
    b"<IsTruncated>false</IsTruncated><Contents><Key>k42</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag>"
    b"<Size>1</Size><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"
)
IDENTITY: Final = (
    b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>arn:aws:iam::42:root</Arn>'
    b"<UserId>u</UserId><Account>42</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
)
STORED: Final = Answer(b"", "text/plain", headers=(("etag", '"42"'),))
INITIALIZED: Final = {
    "jsonrpc": "2.0", "id": 1,
    "result": {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "top60", "version": "1"}},
}  # fmt: skip
MODELS: Final = {"object": "list", "data": [{"id": "m42", "object": "model", "created": 1, "owned_by": "me"}]}
CHAT: Final = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "forty-two"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip
MESSAGE: Final = {
    "id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "forty-two"}],
    "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
}  # fmt: skip
NAMESPACES: Final = {"kind": "NamespaceList", "apiVersion": "v1", "metadata": {}, "items": [{"metadata": {"name": "n42"}}]}
OPENID: Final = {
    "/tenant/v2.0/.well-known/openid-configuration": {
        "token_endpoint": "https://msal.example.com/token",
        "authorization_endpoint": "https://msal.example.com/authorize",
        "issuer": "https://msal.example.com/tenant/v2.0",
    },
    "/token": {"access_token": "t42", "token_type": "Bearer", "expires_in": 3600},
}
BLOBS: Final = (
    b'<?xml version="1.0"?><EnumerationResults><Containers><Container><Name>b42</Name><Properties><Last-Modified>'
    b"Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified><Etag>x</Etag></Properties></Container></Containers><NextMarker/></EnumerationResults>"
)
DISCOVERY: Final = {
    "/tenant/v2.0/.well-known/openid-configuration": {
        "token_endpoint": "https://azure-identity.example.com/token",
        "authorization_endpoint": "https://azure-identity.example.com/authorize",
        "issuer": "https://azure-identity.example.com/tenant/v2.0",
    },
    "/token": {"access_token": "t42", "token_type": "Bearer", "expires_in": 3600},
}
LOGIN: Final = {
    "/session/v1/login-request": {
        "success": True, "code": None, "message": None,
        "data": {
            "token": "t42", "masterToken": "m", "validityInSeconds": 3600, "masterValidityInSeconds": 9999, "parameters": [],
            "sessionInfo": {"databaseName": None, "schemaName": None, "warehouseName": None, "roleName": None}, "sessionId": 1,
        },
    },
}  # fmt: skip
GENERATED: Final = {"candidates": [{"content": {"role": "model", "parts": [{"text": "forty-two"}]}, "finishReason": "STOP"}]}
INFO: Final = Answer(
    b"001e# service=git-upload-pack\n0000" + b"003e" + b"1" * 40 + b" refs/heads/main\0\n" + b"0000",
    "application/x-git-upload-pack-advertisement",
)
SEARCH: Final = Answer(
    b'{"version": {"number": "42.0"}, "tagline": "You Know, for Search"}',
    "application/json",
    headers=(("x-elastic-product", "Elasticsearch"),),
)
PACKAGE: Final = (
    b'<?xml version="1.0"?><nltk_data><packages><package id="p42" name="p" subdir="corpora" url="https://nltk.example.com/p42.zip" unzip="1"'
    b' size="1" unzipped_size="1" checksum="x"/></packages><collections/></nltk_data>'
)
WSDL: Final = (
    b'<?xml version="1.0"?><definitions xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"'
    b' xmlns:t="urn:t" targetNamespace="urn:t"><portType name="P"/><binding name="B" type="t:P"><soap:binding'
    b' transport="http://schemas.xmlsoap.org/soap/http"/></binding><service name="Answer42"><port name="p" binding="t:B"><soap:address'
    b' location="https://zeep.example.com/"/></port></service></definitions>'
)
CHARGE: Final = {"id": "ch_42", "object": "charge", "status": "succeeded"}
GRAPH: Final = {"data": {"answer": 42}}
MESSAGES: Final = {"sid": "SM42", "status": "queued", "account_sid": "AC42", "uri": "/x"}
FEED: Final = b'<?xml version="1.0"?><rss version="2.0"><channel><title>t</title><item><title>e42</title></item></channel></rss>'
TWEET: Final = {"id": 42, "text": "t42"}
