"""How exports name things for other tools: by content, never by a host. Names are the same in every export."""

from __future__ import annotations

import base64
from functools import cache
from importlib.metadata import version
from urllib.parse import quote

from provenance.lineage import FILE
from provenance.tree import Node

_SHA256_LENGTH = 64


@cache
def producer() -> str:
    """This software in this version. It is published nowhere yet, so the name is a URN."""
    return f"urn:tracebed:{version('tracebed')}"


def data_name(node: Node) -> str:
    """A URI of one version of one partition, or of the bytes of a file (RFC 6920)."""
    if node.asset == FILE and len(node.content_hash) == _SHA256_LENGTH:
        return bytes_name(node.content_hash)
    which = "/".join(quote(part, safe="") for part in (*node.asset.split("/"), node.partition) if part)
    return f"urn:tracebed:data:{which}:{node.content_hash}"


def bytes_name(sha256: str) -> str:
    """The URI of bytes with this SHA-256 (RFC 6920)."""
    digest = base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")
    return f"ni:///sha-256;{digest}"
