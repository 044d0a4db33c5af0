"""The paths of engines' APIs: one table for the gateway, the sidecar and batches."""

from __future__ import annotations

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
VECTORS = "/v1/embeddings"
RESPONSES = "/v1/responses"
RERANK = "/v1/rerank"

POST_PATHS = (CHAT, TEXT, VECTORS, RESPONSES, RERANK)
"""Paths that gateway and sidecar pass on to engines."""
BATCHED: dict[str, tuple[tuple[str, ...], ...]] = {
    CHAT: (("messages",),),
    TEXT: (("prompt", "prompt_embeds"),),
    VECTORS: (("input", "messages"),),
    RESPONSES: (("input",),),
    RERANK: (("query",), ("documents",)),
}
"""Paths of batches' requests, each with the fields of a body: of every group at least one."""


def missing(path: str, body: dict[str, object]) -> str | None:
    """Return the first field that a request lacks, or None.

    Args:
        path: a path of ``BATCHED``.
        body: the request.
    """
    groups = BATCHED[path]
    return next((group[0] for group in groups if not any(name in body for name in group)), None)
