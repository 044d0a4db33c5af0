"""The paths of engines' APIs: one table for the gateway, the sidecar and batches."""

from __future__ import annotations

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
VECTORS = "/v1/embeddings"
RESPONSES = "/v1/responses"
RERANK = "/v1/rerank"
RANKINGS = (RERANK, "/rerank", "/v2/rerank")
SCORES = ("/v1/score", "/score")
POOLING, CLASSIFY, MODERATIONS = "/pooling", "/classify", "/v1/moderations"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
IMAGES = "/v1/images/generations"
SPEECH = "/v1/audio/speech"
TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"

TEXTS = (TOKENIZE, DETOKENIZE)
"""Paths that an engine answers without its model."""
COMPUTED = (VECTORS, *RANKINGS, *SCORES, POOLING, CLASSIFY, MODERATIONS)
"""Paths whose answers are numbers, computed without sampling."""
PICTURES = (IMAGES, EDITS, VARIATIONS)
"""Paths whose answers are images."""
FORMS = (TRANSCRIPTIONS, TRANSLATIONS, EDITS, VARIATIONS)
"""Paths whose bodies are forms with files (multipart/form-data)."""
POST_PATHS = (CHAT, TEXT, RESPONSES, *COMPUTED, *TEXTS, IMAGES, SPEECH, *FORMS)
"""Paths that gateway and sidecar pass on to engines; all bodies other than FORMS are JSON."""

_INPUT = (("input", "messages"),)
_PAIRS = (("text_1", "queries", "data_1"), ("text_2", "documents", "items", "data_2"))
BATCHED: dict[str, tuple[tuple[str, ...], ...]] = {
    CHAT: (("messages",),),
    TEXT: (("prompt", "prompt_embeds"),),
    RESPONSES: (("input",),),
    **dict.fromkeys((VECTORS, POOLING, CLASSIFY), _INPUT),
    **dict.fromkeys(RANKINGS, (("query",), ("documents",))),
    **dict.fromkeys(SCORES, _PAIRS),
    MODERATIONS: (("input",),),
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
