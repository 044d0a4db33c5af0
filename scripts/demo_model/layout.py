"""Where each step of the demo model's recipe leaves its result, and what the steps must have."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

PIP = "pip install torch transformers tokenizers safetensors gguf numpy"


@dataclass(frozen=True)
class Layout:
    """The files of one recipe run, all under *root*."""

    root: Path

    @property
    def novels(self) -> Path:
        """The plain text that the model learns from."""
        return self.root / "build" / "novels.txt"

    @property
    def checkpoint(self) -> Path:
        """The trained model in 32-bit floats with its tokenizer."""
        return self.root / "build" / "checkpoint"

    @property
    def hf(self) -> Path:
        """The published folder: safetensors, tokenizer and chat template."""
        return self.root / "hf"

    @property
    def gguf(self) -> Path:
        """The same weights for llama.cpp."""
        return self.root / "demo-f16.gguf"

    @property
    def reference(self) -> Path:
        """What transformers answers greedily."""
        return self.root / "greedy-reference.json"


def need(module: str) -> Any:
    """Import a package of the recipe, which the project itself does not depend on.

    Raises:
        SystemExit: *module* is not installed; the message is the pip command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        message = f"python package {error.name} is not installed: run '{PIP}'"
        raise SystemExit(message) from error


def found(path: Path, step: str) -> Path:
    """Give *path* back if it exists.

    Raises:
        SystemExit: it does not; the message names the *step* that makes it.
    """
    if not path.exists():
        message = f"{path} does not exist: run the step '{step}' first"
        raise SystemExit(message)
    return path
