"""Times and memory as Slurm writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.config import format_time, parse_memory, parse_seconds, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90 * 60),
        ("90:30", 90 * 60 + 30),
        ("08:00:00", 8 * 3600),
        ("2-12", 60 * 3600),
        ("1-00:30", 86400 + 1800),
        ("1-00:00:00", 86400),
        ("0:45", 45),
        ("UNLIMITED", None),
        ("unlimited", None),
    ],
)
def test_every_form_slurm_writes(text: str, seconds: int | None) -> None:
    """MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS, UNLIMITED."""
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "-5", "1-", "0", "00:00", "1-2-3", "N/A"])
def test_other_forms_are_refused(text: str) -> None:
    """And the answer says which are allowed."""
    with pytest.raises(ValueError, match="allowed: MM, MM:SS"):
        parse_seconds(text)


@given(st.integers(min_value=1, max_value=10**6))
def test_what_we_write_we_read(minutes: int) -> None:
    """Formatting loses nothing."""
    assert parse_time(format_time(minutes)) == minutes


@pytest.mark.parametrize(
    ("text", "mib"),
    [("64G", 65536), ("512M", 512), ("512", 512), ("1T", 1048576), ("1K", 1), ("1.5g", 1536)],
)
def test_memory(text: str, mib: int) -> None:
    """A bare number is MiB, as for sbatch."""
    assert parse_memory(text) == mib


@pytest.mark.parametrize("text", ["", "G", "-1G", "lots", "0", "1P"])
def test_other_memory_is_refused(text: str) -> None:
    """And the answer says what is allowed."""
    with pytest.raises(ValueError, match="allowed: a number with K, M, G or T"):
        parse_memory(text)
