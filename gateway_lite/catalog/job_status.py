"""The scheduler's word on the jobs of replicas that do not speak for themselves.

The scheduler is queried in a thread of its own, since an answer may take long, and at most every 30
seconds: one squeue for all jobs. Of several workers only the first queries, and shares the answers
in a file.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING

from hpc.errors import StateError
from hpc.model import JobState, JobStatus
from hpc.state import files, records

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hpc.model import JobHandle

log = logging.getLogger(__name__)

EVERY_S = 30.0
"""Shortest time between two queries, in seconds."""
NAME = "jobs.json"


def statuses(jobs: Sequence[JobHandle]) -> dict[str, JobStatus]:
    """Return the states of jobs by key; the only way to a scheduler here."""
    from hpc.jobs import api as known  # noqa: PLC0415 - costs memory where every replica speaks

    return known.statuses(jobs)


class JobStatuses:
    """The known states of jobs.

    Args:
        file: shares the states among the workers of one gateway; None shares nothing.
        asks: True queries the scheduler; False reads the file of another worker.
        ask: returns the state of jobs by ``JobHandle.key``; may block.
        every_s: shortest time between two queries, in seconds.
    """

    def __init__(
        self,
        file: Path | None = None,
        *,
        asks: bool = True,
        ask: Callable[[Sequence[JobHandle]], Mapping[str, JobStatus]] = statuses,
        every_s: float = EVERY_S,
    ) -> None:
        self._file = file
        self._asks = asks
        self._ask = ask
        self._every_s = every_s
        self._lock = threading.Lock()
        self._answers: Mapping[str, JobStatus] = {}
        self._of_interest: frozenset[str] = frozenset()
        self._wanted: tuple[JobHandle, ...] = ()
        self._news = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._complaint = ""

    def look(self, jobs: Sequence[JobHandle]) -> Mapping[str, JobStatus]:
        """Return the known states of jobs, and have unknown states queried; never waits.

        Args:
            jobs: all jobs of interest; states of other jobs are dropped.
        """
        if not self._asks:
            return self._told() if jobs else {}
        with self._lock:
            self._of_interest = frozenset(job.key for job in jobs)
            known = self._answers = self._kept(self._answers)
        self._wanted = tuple(
            job for job in jobs if job.key not in known or known[job.key].state.alive
        )
        if self._wanted:
            self._news.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
                self._thread.start()
        return known

    def _kept(self, answers: Mapping[str, JobStatus]) -> dict[str, JobStatus]:
        return {name: one for name, one in answers.items() if name in self._of_interest}

    def close(self) -> None:
        """End the queries."""
        self._ended.set()
        self._news.set()

    def _run(self) -> None:
        while True:
            self._news.wait()
            if self._ended.is_set():
                return
            self._news.clear()
            try:
                self._note(self._ask(self._wanted))
            except Exception:
                log.exception("asking the scheduler failed")
            self._ended.wait(self._every_s)

    def _note(self, found: Mapping[str, JobStatus]) -> None:
        """Keep new answers; a missing answer changes nothing."""
        new = {name: one for name, one in found.items() if one.state is not JobState.UNKNOWN}
        with self._lock:
            self._answers = self._kept({**self._answers, **new})
        silent = next((one for one in found.values() if one.state is JobState.UNKNOWN), None)
        trouble = "" if silent is None else silent.reason or "the scheduler does not answer"
        self._complain(self._tell() or trouble)

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.warning("%s", text or "the scheduler answers again")
        self._complaint = text

    def _tell(self) -> str:
        """Write the states for the other workers; return the reason of a failure, or ""."""
        if self._file is not None:
            plain = {name: records.encode(one) for name, one in self._answers.items()}
            try:
                files.write_text(self._file, json.dumps(plain))
            except StateError as error:
                return str(error)
        return ""

    def _told(self) -> Mapping[str, JobStatus]:
        """Return the states that the first worker wrote, or the last known states if unreadable."""
        text = files.read_text(self._file) if self._file is not None else None
        try:
            found = json.loads(text or "")
            self._answers = {
                name: records.decode(JobStatus, one) for name, one in dict(found).items()
            }
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        return self._answers
