"""Times in crontab(5)'s notation, reduced to the part that every Slurm reads alike."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from cronsim import CronSim, CronSimError

from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

ALLOWED = re.compile(r"[\d*,/ -]+")
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
NAMES = {
    3: {name: number for number, name in enumerate(MONTHS, 1)},
    4: {name: number for number, name in enumerate(DAYS)},
}
FIELDS = 5


def in_numbers(when: str) -> str:
    """Return the five fields with numbers in place of names, as every Slurm reads them.

    Raises:
        ConfigError: the text is not five fields of crontab(5).
    """
    fields = when.lower().split()
    if len(fields) == FIELDS:
        fields = [_numbered(text, NAMES.get(place, {})) for place, text in enumerate(fields)]
    text = " ".join(fields)
    try:
        if len(fields) != FIELDS or not ALLOWED.fullmatch(text):
            raise ConfigError(_no_times(when))
        following(text)
    except (CronSimError, StopIteration) as error:
        raise ConfigError(_no_times(when)) from error
    return text


def following(when: str, after: datetime | None = None) -> datetime:
    """Return the next time that matches, in local time."""
    # Local time without a zone, as scrontab counts.
    return next(CronSim(when, after or datetime.now()))  # noqa: DTZ005


def _numbered(text: str, numbers: Mapping[str, int]) -> str:
    """Return a field with numbers in place of names."""
    return re.sub(r"[a-z]+", lambda found: str(numbers.get(found[0][:3], found[0])), text)


def _no_times(when: str) -> str:
    return (
        f"--every {when!r} is no time: allowed are five fields as in crontab(5), "
        "such as '0 22 * * mon-fri'"
    )
