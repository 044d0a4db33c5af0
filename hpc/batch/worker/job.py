"""The job of a batch: an engine and a worker together, until all requests are answered."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import engines
from hpc.batch import gateway_token
from hpc.batch import report as batch_report
from hpc.batch.folder import BatchFolder
from hpc.batch.ledger.filesystem import RealFileSystem
from hpc.batch.model import BatchSpec, BatchTarget, BatchWorker
from hpc.batch.worker import pause_rules
from hpc.batch.worker.loop import Worker
from hpc.errors import BatchError, EngineError, HpcServeError
from hpc.file_limit import raise_file_limit
from hpc.jobs import api as jobs
from hpc.model import JobHandle, ServiceSpec
from hpc.node import engine_process, signals
from hpc.node import environment as node_environment
from hpc.processes import programs
from hpc.state import directory, records

if TYPE_CHECKING:
    from hpc.engines import Launch

log = logging.getLogger(__name__)

TICK_S = 0.5
DRAIN_S = 10.0
"""Seconds for requests in flight at the end; Slurm's default KillWait is 30 s."""
MAX_CRASHES = 5
BATCHING = 32
"""Initial concurrency for a batching engine; the engine is the job's own, so no user waits."""
STOPS = frozenset({"pause", "cancel"})


@dataclass(frozen=True, slots=True)
class RunBatch:
    """The job of a worker; submitit pickles this object.

    Attributes:
        home: state directory.
        batch: id of the batch.
        program: Apptainer's program.
        gpus: number of GPUs of this job.
    """

    home: str
    batch: str
    program: str = "apptainer"
    gpus: int = 0

    def __call__(self) -> None:
        """Work until the batch is answered, paused or cancelled.

        Raises:
            EngineError: the model server did not start, or crashed too often.
            BatchError: the batch cannot be read, or its output cannot be written.
        """
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        run(Path(self.home), self.batch, program=self.program, gpus=self.gpus)

    def checkpoint(self) -> Any:
        """Flush before the walltime or a preemption, and return the job for submitit's requeue."""
        from submitit.core.utils import DelayedSubmission  # noqa: PLC0415 - only in a job

        if _current is not None:
            _current.close()
        return DelayedSubmission(self)


def run(root: Path, batch: str, *, program: str = "apptainer", gpus: int = 0) -> None:
    """Run a worker in this process, with its own engine unless a service answers.

    Args:
        root: state directory.
        batch: id of the batch.
        program: Apptainer's program.
        gpus: number of GPUs of this job.

    Raises:
        BatchError: the batch cannot be read, or its output cannot be written.
        EngineError: the model server did not start, or crashed too often.
    """
    raise_file_limit()
    folder = directory.batch_dir(root, batch)
    spec = batch_report.load(folder)
    engine = records.read_record(BatchFolder(folder).engine, ServiceSpec)
    base = node_environment.base_folder(engine, os.environ)
    with node_environment.private_folder(base) as private:
        life = WorkerRun(folder, spec, private, program, gpus)
        signals.listen()
        life.run()


_current: WorkerRun | None = None


class WorkerRun:
    """A run of a worker's job: everything to be closed at the job's end, however the job ends.

    The worker's loop has its own thread, since signals and the engine's leash need the main thread.
    """

    def __init__(
        self, folder: Path, spec: BatchSpec, private: Path, program: str, gpus: int
    ) -> None:
        global _current  # noqa: PLW0603 - submitit calls checkpoint() on a copy of the job
        self.folder, self.spec, self.private, self.program = folder, spec, private, program
        self.files, self.gpus = RealFileSystem(), gpus
        self.job_id = node_environment.job_id(os.environ) or str(os.getpid())
        # The job id alone would repeat after a requeue, and names must be unique for ever.
        self.name = f"{self.job_id}-{secrets.token_hex(4)}"
        self.key = secrets.token_urlsafe(directory.SECRET_BYTES)
        self.engine: engine_process.Running | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.worker: Worker | None = None
        self.thread: threading.Thread | None = None
        self.at_work = threading.Lock()
        self.failure: BaseException | None = None
        self.done = False
        _current = self

    def run(self) -> None:
        """Work, and write the output when all requests are answered."""
        pause_rules.begin(self.folder, self.spec)
        try:
            while not self.done and not self._told_to_stop():
                self._work()
            if self.done:
                batch_report.conclude(self.files, self.folder, self.spec)
                gateway_token.end(BatchFolder(self.folder).home, self.spec.id)
        except signals.Terminated:
            log.info("told to end")
        finally:
            self.close()
        if self.done:  # after close(): the engine must hold no GPU while the command runs
            pause_rules.run_on_done(self.folder, self.spec)

    def _work(self) -> None:
        slots, target = self._start_engine()
        self.thread = threading.Thread(target=self._loop, args=(target, slots), daemon=True)
        # Taken before the thread starts: the thread's release must not come first.
        self.at_work.acquire()
        self.thread.start()
        crashes = 0
        while not self._left(TICK_S):
            if self._told_to_stop():
                self._stop_worker()
            crashes += self._mend()
            if crashes > MAX_CRASHES:
                raise EngineError(f"the engine crashed {crashes} times")
        if self.failure is not None:
            raise BatchError(f"the worker failed: {self.failure}") from self.failure
        if self.done and batch_report.reopen(self.files, self.folder, self.spec):
            self.done = False

    def _loop(self, target: BatchTarget, slots: int | None) -> None:
        try:
            self.done = asyncio.run(self._serve(target, slots))
        except BaseException as error:  # noqa: BLE001 - the first thread raises it
            self.failure = error
        finally:
            self.at_work.release()

    def _left(self, patience_s: float) -> bool:
        """Wait for the worker's end; an interrupted Thread.join() would stay wrong for ever."""
        if not self.at_work.acquire(timeout=patience_s):
            return False
        self.at_work.release()
        return True

    async def _serve(self, target: BatchTarget, slots: int | None) -> bool:
        now = time.time()
        host = node_environment.node_name(os.environ)
        record = BatchWorker(self.name, self.job_id, host, now, 0.0, gpus=self.gpus)
        self.worker = Worker(
            self.files, self.folder, self.spec, record, slots=slots, ended=self._job_ended
        )
        self.loop = asyncio.get_running_loop()
        return await self.worker.run(target, drain_s=DRAIN_S)

    def _job_ended(self, job_id: str) -> bool:
        handle = records.read_record(BatchFolder(self.folder).job(job_id), JobHandle)
        if handle is None:
            return False
        try:
            found = jobs.statuses([handle])[handle.key]
        except HpcServeError:
            return False
        return found.state.over

    def _told_to_stop(self) -> bool:
        pause_rules.pause_when_late(self.folder, self.spec)
        if self.worker is not None:
            pause_rules.pause_when_away(self.folder, self.spec, self.worker.away)
        return BatchFolder(self.folder).order() in STOPS

    def _start_engine(self) -> tuple[int | None, BatchTarget]:
        spec = records.read_record(BatchFolder(self.folder).engine, ServiceSpec)
        if spec is None:
            return None, batch_report.target(self.folder)
        launch = self._launch(spec)
        self._await_engine(spec)
        socket = str(self.private / node_environment.SOCKET)
        return launch.slots or BATCHING, BatchTarget(
            "http://engine", launch.env[launch.key_env], socket
        )

    def _launch(self, spec: ServiceSpec) -> Launch:
        found = node_environment.find_place(spec, self.private, self.key, os.environ)
        launch = engines.launch(spec, found)
        path = BatchFolder(self.folder).engine_log(self.name)
        self.engine = engine_process.start_engine(
            spec, launch, run_dir=self.private, log_path=path, program=self.program
        )
        return launch

    def _await_engine(self, spec: ServiceSpec) -> None:
        if self.engine is not None:
            late = f"the engine was not ready within {spec.load_timeout_s} s"
            engine_process.wait_ready(
                self.engine,
                deadline=time.time() + spec.load_timeout_s,
                late=late,
                tick=lambda: None,
                spec=spec,
            )

    def _mend(self) -> bool:
        """Restart a crashed engine; its requests wait meanwhile."""
        spec = records.read_record(BatchFolder(self.folder).engine, ServiceSpec)
        if self.engine is None or spec is None:
            return False
        try:
            engine_process.check_alive(self.engine, spec)
        except EngineError as error:
            log.warning("starting the engine again: %s", error)
            programs.stop(self.engine.process, grace_s=0)
            self._launch(spec)
            self._await_engine(spec)
            return True
        return False

    def _stop_worker(self) -> None:
        if self.loop is not None and self.worker is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.worker.stop)

    def close(self) -> None:
        """Flush and release the worker's chunks, then end the engine."""
        signals.deaf()
        if self.thread is not None and not self._left(0):
            self._stop_worker()
            self._left(DRAIN_S + 5)
        if self.engine is not None:
            programs.stop(self.engine.process, grace_s=5)
            self.engine = None
