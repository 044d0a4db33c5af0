"""Field types that several configuration files share."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from hpc.config.units import parse_memory, parse_node_memory, parse_time

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_TYPED_GPUS = re.compile(r"(?:gpu:)?([A-Za-z][A-Za-z0-9_.-]*)(?::([0-9]+))?")
_DOMAIN = re.compile(r"\*|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class MisplacedError(ValueError):
    """A value that contradicts another value of its file.

    Args:
        at: location of the value, as keys and indices from the mapping that was checked.
        message: the contradiction.
    """

    def __init__(self, at: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.at = at


def check_name(name: str) -> str:
    """Return a service's name if a folder and a Slurm job may bear the name.

    Raises:
        ValueError: the name holds a character that is not allowed, or is too long.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a name; allowed: up to 63 letters, digits, '.', '_', '-'"
        )
    return name


def check_alias(name: str) -> str:
    """Return a name of a model if clients may request the name.

    Raises:
        ValueError: the name holds a character that is not allowed, or is too long.
    """
    if not _ALIAS.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a name; allowed: up to 128 letters, digits, and . _ : / @ + -"
        )
    return name


def _check_key(name: str) -> str:
    if not _KEY.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a name of a key; allowed: up to 63 letters, digits, and . _ @ -"
        )
    return name


def _check_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of an environment variable")
    return name


def _check_line(text: str) -> str:
    # A line break would let a value add lines of its own to a batch script.
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError("a line break is not allowed here")
    return text


def _check_domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text):
        raise ValueError(f"{text!r} is not a host; allowed: such as images.example.org, or '*'")
    return text.lower()


def one_or_many(value: object) -> object:
    """Convert a single text to a list with the text."""
    return [value] if isinstance(value, str) else value


def _sbatch_value(value: object) -> object:
    """Convert yes and no to an option without a value and to no option."""
    if isinstance(value, bool):
        return "" if value else None
    return value


def _port_range(text: str) -> str:
    low, mark, high = text.partition("-")
    if mark and low.isdecimal() and high.isdecimal() and 1024 <= int(low) <= int(high) <= 65535:
        return text
    raise ValueError(
        f"{text!r} is no range of ports; allowed: LOW-HIGH from 1024 to 65535, as in 20000-20100"
    )


def _node_folder(text: str) -> str:
    if not text.startswith(("/", "$", "~")):
        raise ValueError(
            f"{text!r} is no whole path; allowed: a path that begins with /, ~ or a variable, such"
            " as /scratch/$USER"
        )
    return text


def _gpus(value: object) -> object:
    found = _TYPED_GPUS.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        kind, count = found[1], found[2] or 1
        raise ValueError(
            f"{value!r} is not a number of GPUs; write gpus: {count} and gpu_type: {kind}"
        )
    return value


Name = Annotated[str, AfterValidator(check_name)]
Alias = Annotated[str, AfterValidator(check_alias)]
KeyName = Annotated[str, AfterValidator(_check_key)]
Domain = Annotated[str, AfterValidator(_check_domain)]
Domains = Annotated[list[Domain], BeforeValidator(one_or_many)]
Line = Annotated[str, AfterValidator(_check_line)]
Lines = Annotated[list[Line], BeforeValidator(one_or_many)]
SbatchValue = Annotated[str | None, BeforeValidator(_sbatch_value)]
PortRange = Annotated[str, AfterValidator(_port_range)]
NodeFolder = Annotated[str, AfterValidator(_check_line), AfterValidator(_node_folder)]
NodeFolders = Annotated[list[NodeFolder], BeforeValidator(one_or_many)]
Gpus = Annotated[int, BeforeValidator(_gpus)]
Minutes = Annotated[int, BeforeValidator(parse_time)]
Mib = Annotated[int, BeforeValidator(parse_memory)]
NodeMib = Annotated[int, BeforeValidator(parse_node_memory)]
Variable = Annotated[str, AfterValidator(_check_variable)]


class Strict(BaseModel):
    """A mapping that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid")
