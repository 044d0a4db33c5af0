"""The check for complete weights in a snapshot of the Hugging Face cache, by vLLM's own choice.

vLLM loads one form of the weights: Mistral's consolidated files where there are any, else
safetensors, else PyTorch's. Files of another form, and their indices, do not count.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIGS = ("config.json", "params.json")
"""Configurations in Hugging Face's form and in Mistral's."""
TOKENIZERS = (
    "tokenizer*", "tekken*", "*.model", "*.tiktoken", "vocab*", "spiece*", "merges.txt",
    "preprocessor_config.json",
)  # fmt: skip
"""Names of which a whole snapshot has one; a model of images has a preprocessor instead."""
FORMS = (
    ("consolidated*.safetensors", "consolidated.safetensors.index.json"),
    ("*.safetensors", "model.safetensors.index.json"),
    ("*.bin", "pytorch_model.bin.index.json"),
    ("*.pt", "pytorch_model.pt.index.json"),
)
"""Patterns of weights in vLLM's order, each with its index (``default_loader.py`` of 0.32)."""
OF_TRAINING = frozenset(
    {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}
)
SHARD = re.compile(r"-\d{5}-of-\d{5}\.")


def whole(snapshot: Path, *, tokenizer: bool = True) -> bool:
    """Return whether a snapshot holds all that vLLM loads without the network.

    Args:
        snapshot: ``models--ORG--NAME/snapshots/COMMIT``; links to unfinished files dangle.
        tokenizer: whether the snapshot must hold the tokenizer too.
    """
    sizes = _sizes(snapshot)
    if not any(name in sizes for name in CONFIGS):
        return False
    if tokenizer and not any(fnmatchcase(name, rule) for name in sizes for rule in TOKENIZERS):
        return False
    for pattern, index in FORMS:
        found = {name for name in sizes if fnmatchcase(name, pattern)} - OF_TRAINING
        if found:
            return _complete(snapshot, found, index, sizes)
    return False


def _sizes(snapshot: Path) -> dict[str, int]:
    """Return the sizes of the files in a snapshot, without empty and dangling ones."""
    found = {path.name: path.stat().st_size for path in snapshot.iterdir() if path.is_file()}
    return {name: size for name, size in found.items() if size}


def _complete(snapshot: Path, found: set[str], index: str, sizes: Mapping[str, int]) -> bool:
    listed = _listing(snapshot)
    if index in sizes:
        needed = _indexed(snapshot / index)
        if not needed:
            return False
    # The index of a repository is the last of its weights to arrive.
    elif index in listed or any(SHARD.search(name) for name in found):
        return False
    else:
        needed = found
    return all(name in sizes and listed.get(name, sizes[name]) == sizes[name] for name in needed)


def _indexed(index: Path) -> set[str]:
    """Return the files that an index lists, or none if the index is unreadable."""
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return set()


def _listing(snapshot: Path) -> dict[str, int]:
    """Return the sizes of the repository's files, as huggingface_hub 1 and newer keep them."""
    path = snapshot.parent.parent / "trees" / f"{snapshot.name}.json"
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {name: int(one.get("lfs_size") or one["size"]) for name, one in files.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
