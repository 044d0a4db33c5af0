"""Times, and the lines of a scrontab that are ours."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.batch.schedule import cron
from hpc.errors import ConfigError, SchedulerError
from hpc.slurm import scrontab


@pytest.mark.parametrize(
    ("when", "numbers"),
    [
        ("0 22 * * mon-fri", "0 22 * * 1-5"),
        ("*/15 8-18 1,15 JAN-Mar Sunday", "*/15 8-18 1,15 1-3 0"),
        ("  5   4 * * * ", "5 4 * * *"),
    ],
)
def test_names_become_numbers(when: str, numbers: str) -> None:
    assert cron.in_numbers(when) == numbers


@pytest.mark.parametrize(
    "when",
    ["", "22:00", "0 22 * *", "61 * * * *", "0 0 31 2 *", "0 22 * * lundi", "@daily", "0 0 L * *"],
)
def test_what_is_no_time_is_refused_with_an_example(when: str) -> None:
    with pytest.raises(ConfigError, match=r"five fields as in crontab\(5\)"):
        cron.in_numbers(when)


def test_the_next_time() -> None:
    friday_night = datetime(2026, 11, 20, 22, 0)  # noqa: DTZ001
    assert cron.following("0 22 * * 1-5", friday_night) == datetime(2026, 11, 23, 22)  # noqa: DTZ001


LINES = st.lists(
    st.text(
        st.characters(codec="utf-8", exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
    ),
    max_size=8,
).map(lambda lines: "".join(f"{line}\n" for line in lines))


@given(LINES, LINES)
def test_others_lines_stay_byte_for_byte(above: str, below: str) -> None:
    ours = "# hpc-serve every-1 begin\n#SCRON --time=5\n0 1 * * * x\n# hpc-serve every-1 end\n"
    assert scrontab.without(above + ours + below, "every-1") == above + below
    assert scrontab.without(above + below, "every-1") == above + below


BEGIN, END = "# hpc-serve every-1 begin\n", "# hpc-serve every-1 end\n"


@pytest.mark.parametrize(
    "ours",
    [f"{BEGIN}0 1 * * * x\n", f"0 1 * * * x\n{END}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"],
)
def test_an_entry_without_both_markers_is_left_to_the_user(ours: str) -> None:
    with pytest.raises(SchedulerError, match="not both of the lines '# hpc-serve every-1 begin'"):
        scrontab.without(f"# mine\n{ours}0 3 * * * theirs\n", "every-1")
