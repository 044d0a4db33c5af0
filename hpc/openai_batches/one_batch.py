"""The processing of one OpenAI batch: check, intake, watch, output files."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from hpc.batch import control as batch_control
from hpc.batch import report as batch_report
from hpc.batch import submit as batch_submit
from hpc.batch.folder import BatchFolder
from hpc.batch.ledger import heartbeats
from hpc.batch.ledger.filesystem import RealFileSystem
from hpc.batch.worker import pause_rules
from hpc.config import Site
from hpc.errors import BatchError, StateError
from hpc.gateway import reach
from hpc.jobs import api as jobs
from hpc.keys import batch_tokens
from hpc.openai_batches import input_check, output_files
from hpc.openai_batches import records as batch_records
from hpc.state import directory, files, records

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.batch.model import BatchSpec
    from hpc.openai_batches.records import BatchRecord

log = logging.getLogger(__name__)

LOOK_S = 1.0
STAFF_S = 5.0
"""Seconds between two attempts to start a worker."""
TOKEN_S = 3600
"""Seconds that a batch token outlives its batch, as clocks differ."""


@dataclass(frozen=True, slots=True)
class ProcessorContext:
    """The context that all batches of a batch processor share.

    Attributes:
        root: state directory.
        hostname: name of this machine.
        closing: set when the processor ends; batches in progress stay as they are.
        one_at_a_time: lock held while workers are submitted.
    """

    root: Path
    hostname: str
    closing: Event = field(default_factory=Event)
    one_at_a_time: Lock = field(default_factory=Lock)

    def serves(self) -> bool:
        """Return whether the machine's gateway runs."""
        return reach.here(self.root) is not None


class BatchRun:
    """The processing of a batch; after a crash a new process continues from the state on disk.

    Args:
        office: the processor's context.
        order: the batch record.
    """

    def __init__(self, office: ProcessorContext, order: BatchRecord) -> None:
        self._office, self._order = office, order
        self._files = RealFileSystem()
        self._folder = batch_records.record_dir(office.root, order.key, order.id)
        self._merged = self._folder / "merged.jsonl"
        self._staffed_at = -STAFF_S
        self.progress = batch_records.load_progress(office.root, order)

    def run(self) -> None:
        """Process the batch to its end, or leave when the processor closes.

        Raises:
            HpcServeError: a step failed that may work later.
        """
        if self.progress.status not in batch_records.FINAL:
            spec = self._begun() or self._begin()
            if spec is None:
                return
            ended = self._watch(spec)
            if ended is None:
                return
            self._finish(spec, ended)
        self._clean()

    def _save(self, **changes: Any) -> None:
        new = replace(self.progress, hostname=self._office.hostname, **changes)
        if new != self.progress:
            records.write_record(self._folder / "progress.json", new)
            self.progress = new

    def _end(self, status: str, **changes: Any) -> None:
        self._save(status=status, ended_at=int(time.time()), **changes)
        self._close()

    def _close(self) -> None:
        batch_tokens.end(self._office.root, self._order.key, self._order.id)
        batch_records.close(self._office.root, self._order.key, self._order.id)

    def _why(self) -> str | None:
        """Return the reason to make no further request, or None."""
        if batch_records.cancelled_at(self._office.root, self._order) is not None:
            return "cancelled"
        return "expired" if time.time() >= self._order.expires_at else None

    def _begun(self) -> BatchSpec | None:
        """Return the batch that an earlier processor took in, even if its id was not recorded."""
        root = self._office.root
        for batch in [self.progress.batch] if self.progress.batch else batch_control.ids(root):
            with contextlib.suppress(BatchError):
                spec = batch_report.load(directory.batch_dir(root, batch))
                if spec.output == str(self._merged):
                    self._note_begin(spec)
                    return spec
        return None

    def _note_begin(self, spec: BatchSpec) -> None:
        if self.progress.batch is None:
            now = int(time.time())
            self._save(status="in_progress", batch=spec.id, total=spec.rows, in_progress_at=now)

    def _begin(self) -> BatchSpec | None:
        """Check the file and take the requests in; None when refused or when closing."""
        content = (
            batch_records.file_dir(self._office.root, self._order.key, self._order.file) / "content"
        )
        try:
            token = self._wait_for_gateway()
            if token is None:
                return None
            input_check.check_key(self._office.root, self._order.key)
            order = self._order
            checked = input_check.read(content, order.endpoint, order.models, order.most_bytes)
        except input_check.RefusedError as refused:
            self._end(refused.status, errors=refused.errors)
            return None
        self._save(total=checked.total)
        return self._launch(content, token)

    def _launch(self, content: Path, token: str) -> BatchSpec:
        wanted = batch_submit.BatchOptions(
            content, self._merged, None, by_gateway=True, token=token
        )
        with self._office.one_at_a_time:
            spec = batch_submit.submit(
                self._office.root, wanted, engine=None, cluster="local", site=Site()
            )
        self._note_begin(spec)
        return spec

    def _wait_for_gateway(self) -> str | None:
        """Return the batch's token as soon as a gateway runs; None when closing.

        Raises:
            RefusedError: the batch ended before its start.
        """
        ends_at = self._order.expires_at + TOKEN_S
        token = batch_tokens.grant(self._office.root, self._order.key, self._order.id, ends_at)
        while not self._office.closing.is_set():
            why = self._why()
            if why is not None:
                raise input_check.RefusedError(why)
            if self._office.serves():
                return token
            self._office.closing.wait(LOOK_S)
        return None

    def _watch(self, spec: BatchSpec) -> str | None:
        """Return the batch's final status; None when the processor closes."""
        folder = directory.batch_dir(self._office.root, spec.id)
        while batch_report.report(folder) is None:
            why = self._why() or ("cancelled" if _control(folder) == "cancel" else None)
            if why is not None:
                self._halt(folder)
                return "completed" if batch_report.report(folder) else why
            if self._office.closing.is_set():
                return None
            self._count(folder, spec)
            self._staff(folder, spec)
            self._office.closing.wait(LOOK_S)
        return "completed"

    def _count(self, folder: Path, spec: BatchSpec) -> None:
        workers = heartbeats.load_all(self._files, folder)
        # Two workers may count a row whose chunk changed hands, so the sums are capped.
        failed = min(spec.rows, sum(one.failed for one in workers))
        good = min(spec.rows - failed, sum(one.good for one in workers))
        why = pause_rules.why(folder)
        told = () if why is None else (input_check.error("paused", f"the batch has paused: {why}"),)
        self._save(completed=good, failed=failed, errors=told)

    def _staff(self, folder: Path, spec: BatchSpec) -> None:
        """Keep a worker running, unless paused; it finds the gateway's current address itself."""
        if not self._office.serves() or _control(folder):
            return
        if not batch_control.here(folder) and time.monotonic() - self._staffed_at > STAFF_S:
            self._staffed_at = time.monotonic()
            with self._office.one_at_a_time:
                batch_submit.submit_workers(self._office.root, spec, 1, "local", Site(), {})

    def _halt(self, folder: Path) -> None:
        """Make the workers flush and leave; workers of a dead machine write nothing more."""
        files.write_text(BatchFolder(folder).control, "cancel")
        jobs.drain(batch_control.here(folder))
        batch_control.settle(folder)

    def _finish(self, spec: BatchSpec, ended: str) -> None:
        """Write the output and error files from the answers on disk."""
        folder = directory.batch_dir(self._office.root, spec.id)
        if ended == "completed":
            now = self.progress.finalizing_at or int(time.time())
            self._save(status="finalizing", finalizing_at=now)
        # The workers have ended before the answers are read: no file grows during the split.
        batch_control.settle(folder)
        root, key = self._office.root, self._order.key
        drafts = [batch_records.drafted(root, key) for _ in range(2)]
        try:
            good, bad = (private(draft / "content") for draft in drafts)
            with good, bad:
                counts = output_files.split(self._files, folder, spec, good, bad, why=ended)
                for file in (good, bad):
                    file.flush()
                    os.fsync(file.fileno())
            output = self._keep(drafts[0], "output", counts.good)
            error = self._keep(drafts[1], "error", counts.failed + counts.missing)
        except OSError as error_:
            raise StateError(f"cannot write the answers: {error_.strerror}") from error_
        finally:
            for draft in drafts:
                shutil.rmtree(draft, ignore_errors=True)
        self._end(
            ended,
            output=output,
            error=error,
            completed=counts.good,
            failed=counts.failed,
            usage=dict(counts.used),
        )

    def _keep(self, draft: Path, kind: str, lines: int) -> str | None:
        """Store a draft as a file whose id follows from the batch's id, and return the id."""
        if not lines:
            return None
        order = self._order
        # Not random: after a crash in mid-step the same files are written again, not new ones.
        now = int(time.time())
        mark = hashlib.sha256(f"{order.id} {kind}".encode()).hexdigest()[:24]
        file = batch_records.StoredFile(
            id=f"file-{mark}",
            key=order.key,
            filename=f"{order.id}_{kind}.jsonl",
            purpose="batch_output",
            size=(draft / "content").stat().st_size,
            created_at=now,
            expires_at=None if order.output_s is None else now + order.output_s,
        )
        batch_records.keep(self._office.root, draft, file)
        return file.id

    def _clean(self) -> None:
        """Remove the working files of the finished batch."""
        self._close()
        self._merged.unlink(missing_ok=True)
        if self.progress.batch is not None:
            folder = directory.batch_dir(self._office.root, self.progress.batch)
            gone = folder.with_name(f".{folder.name}")
            with contextlib.suppress(OSError):
                folder.rename(gone)  # a listing must not show a half-removed batch
            shutil.rmtree(gone, ignore_errors=True)
            shutil.rmtree(
                directory.plain_job_dir(self._office.root, f"batch-{folder.name}"),
                ignore_errors=True,
            )


def _control(folder: Path) -> str:
    """Return the command that ``hpc-serve batch`` left for the workers, or ""."""
    return BatchFolder(folder).order()


def private(path: Path) -> Any:
    """Open a new file that only its owner may read (mode 0600)."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
