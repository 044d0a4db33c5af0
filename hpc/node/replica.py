"""The life of a replica in its job, from the first phase to the last."""

from __future__ import annotations

import logging
import os
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import engines
from hpc.errors import EngineError, HpcServeError, StateError
from hpc.file_limit import raise_file_limit
from hpc.model import Endpoint, Phase
from hpc.node import addresses, engine_process, own_door, signals
from hpc.node import environment as node_environment
from hpc.node.certificate import make_certificate
from hpc.node.heartbeat import Announcer
from hpc.processes import programs
from hpc.state import directory, files

if TYPE_CHECKING:
    from hpc.model import ServiceSpec
    from hpc.processes.programs import Process

log = logging.getLogger(__name__)

TERM_DRAIN_S = 20.0
"""Seconds for streams in flight after SIGTERM; Slurm's default KillWait is 30 s."""
ENGINE_STOP_S = 5.0
SIDECAR_EXIT_S = 4.0
"""Seconds for a sidecar's exit once its streams have ended."""
CAUSE_BYTES = 300
MAX_CRASHES = 3
"""Crashes of an engine, after its first ready, that a job answers with a restart."""


@dataclass(frozen=True, slots=True)
class ServeReplica:
    """The job of a replica; submitit pickles the object.

    Attributes:
        home: state directory.
        service: name of the service.
        replica: number of the replica, from 0.
        program: Apptainer's program.
    """

    home: str
    service: str
    replica: int
    program: str = "apptainer"

    def __call__(self) -> None:
        """Serve until the job is told to end.

        Raises:
            EngineError: the model server did not start, or crashed too often.
        """
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        serve(Path(self.home), self.service, self.replica, program=self.program)

    def checkpoint(self) -> Any:
        """Drain before the walltime or a preemption, and return the job for submitit's requeue."""
        from submitit.core.utils import DelayedSubmission  # noqa: PLC0415 - only in a job

        if _current is not None:
            _current.close_at_walltime()
        return DelayedSubmission(self)


def serve(root: Path, service: str, replica: int, *, program: str = "apptainer") -> None:
    """Run a replica in this process until SIGTERM, a crash, or the walltime.

    Args:
        root: state directory.
        service: name of the service.
        replica: number of the replica, from 0.
        program: Apptainer's program.

    Raises:
        StateError: the state directory has no such service, or another job for the replica.
        EngineError: the model server did not start, or crashed too often.
    """
    spec = directory.load_spec(root, service)
    if spec is None:
        raise StateError(f"there is no service {service!r} in {root}")
    mine, recorded = node_environment.job_id(os.environ), directory.load_job(root, service, replica)
    # A job that was forgotten, or requeued as its successor was submitted, must not serve twice.
    if mine and recorded is not None and recorded.job_id != mine:
        raise StateError(f"replica {replica} of {service!r} is job {recorded.job_id}, not {mine}")
    life = ReplicaRun(root, spec, replica, program)
    signals.listen()
    life.run()


_current: ReplicaRun | None = None


class ReplicaRun:
    """A run of a replica's job: everything to close at the job's end, however the job ends."""

    def __init__(self, root: Path, spec: ServiceSpec, replica: int, program: str) -> None:
        global _current  # noqa: PLW0603 - submitit calls checkpoint() on a copy of the job
        self.root, self.spec, self.replica = root, spec, replica
        self.program = program
        self.started_at = time.time()
        self.ends_at = node_environment.walltime_end(spec, os.environ)
        self.folders = ExitStack()
        self.folder: Path | None = None
        self.announcer = Announcer(root, self._first_word())
        self.engine: engine_process.Running | None = None
        self.sidecar: Process[str] | None = None
        self.crashes = 0
        self.closed = False
        _current = self

    def _first_word(self) -> Endpoint:
        on_slurm = "SLURM_JOB_ID" in os.environ
        return Endpoint(
            service=self.spec.name,
            replica=self.replica,
            model=self.spec.name,
            host=node_environment.node_name(os.environ) if on_slurm else addresses.LOOPBACK,
            port=0,
            phase=Phase.STARTING,
            job_id=node_environment.job_id(os.environ),
            ends_at=self.ends_at,
            beat_at=self.started_at,
            restarts=node_environment.restarts(os.environ),
        )

    def run(self) -> None:
        """Serve, and publish the way the replica ended."""
        raise_file_limit()  # the engine inherits it, also without Slurm's script
        with self.folders:
            try:
                self._serve()
            except signals.Terminated:
                self.close(Phase.DRAINING, drain_s=TERM_DRAIN_S)
                self.announcer.enter(Phase.STOPPED)
            except Exception as error:
                self.close(None, drain_s=0)
                self.announcer.enter(Phase.FAILED, cause=_cause(error))
                raise
            finally:
                self.close(None, drain_s=0)

    def _serve(self) -> None:
        while True:
            try:
                self._watch(self._start())
            except EngineError as error:
                was_ready = Phase.READY.value in self.announcer.endpoint.phases
                self.crashes += 1
                if not was_ready or self.crashes > MAX_CRASHES:
                    raise
                log.warning("starting the engine again: %s", error)
                self.announcer.enter(Phase.DRAINING, cause=str(error))
                # Streams of an engine that refuses new requests may go on.
                self._stop_processes(drain_s=TERM_DRAIN_S)

    def _private_folder(self) -> Path:
        """Return the job's private folder, a new one if a cleaner of /tmp has removed the last."""
        if self.folder is None or not self.folder.is_dir():
            base = node_environment.base_folder(self.spec, os.environ)
            self.folder = self.folders.enter_context(node_environment.private_folder(base))
        return self.folder

    def _start(self) -> own_door.DoorWatch:
        """Start engine and sidecar, and return the watch of the ready replica."""
        secret_file, folder = self._fresh_secret(), self._private_folder()
        self.announcer.enter(Phase.STARTING)
        place = addresses.of_node(os.environ, self.spec.interface)
        key = secrets.token_urlsafe(directory.SECRET_BYTES)
        found = node_environment.find_place(self.spec, folder, key, os.environ)
        launch = engines.launch(self.spec, found)
        log_path = directory.engine_log(self.root, self.spec.name, self.replica)
        self.engine = engine_process.start_engine(
            self.spec, launch, run_dir=folder, log_path=log_path, program=self.program
        )
        self.announcer.enter(Phase.LOADING)
        # While the engine loads: import and certificate take 35 ms.
        certificate = make_certificate(folder) if self.spec.replica_tls else None
        # The sidecar starts after the engine is up, so no request reaches a loading engine.
        patience, late = self._patience()
        self._wait_ready(self.engine, patience, late)
        self.sidecar, port = engine_process.start_sidecar(
            self.engine,
            spec=self.spec,
            secret_file=secret_file,
            certificate=certificate,
            host=place.bind,
            run_dir=folder,
            log_path=log_path.with_name("sidecar.log"),
            drain_s=max(self._walltime_drain_s() - SIDECAR_EXIT_S, 1),
        )
        pem = None if certificate is None else certificate.pem
        secret = files.read_text(secret_file) or ""
        door = own_door.OwnDoor(place.dial, port, secret.strip(), pem)
        self.announcer.enter(Phase.WARMING)
        self._warm_up(self.engine, door, patience, late)
        self.announcer.enter(
            Phase.READY, port=port, slots=launch.slots, certificate=pem, place=place
        )
        return own_door.DoorWatch(door, launch.probe.path, self.engine.socket)

    def _fresh_secret(self) -> Path:
        try:
            directory.new_secret(self.root, self.spec.name, self.replica)
        except StateError as error:
            raise EngineError(str(error)) from error
        return directory.secret_path(self.root, self.spec.name, self.replica)

    def _patience(self) -> tuple[float, str]:
        """Return the Unix time at which the engine is late, and the error's text for that."""
        patience = time.time() + self.spec.load_timeout_s
        late = f"the engine was not ready within {self.spec.load_timeout_s} s"
        if self.ends_at is not None and self.ends_at - self.spec.grace_s < patience:
            patience = self.ends_at - self.spec.grace_s
            limit = max(0, int(self.ends_at - self.started_at))
            late = f"the walltime of {limit} s is too short to load the model"
        return patience, late

    def _wait_ready(self, engine: engine_process.Running, patience: float, late: str) -> None:
        engine_process.wait_ready(
            engine, deadline=patience, late=late, tick=self.announcer.beat, spec=self.spec
        )

    def _warm_up(
        self, engine: engine_process.Running, door: own_door.OwnDoor, patience: float, late: str
    ) -> None:
        limit = time.monotonic() + patience - time.time()
        try:
            own_door.warm_up(door, self.spec.name, deadline=limit, tick=self._look_around)
        except own_door.SilentDoorError as error:
            raise EngineError(late) from error
        except own_door.DoorError as error:
            failed = EngineError(f"the engine failed at its first request: {error}")
            raise engine_process.cause_of(engine, self.spec, failed) from error

    def _watch(self, door: own_door.DoorWatch) -> None:
        while True:
            self._look_around()
            try:
                door.look(self._look_around)
            except own_door.DoorError as error:
                raise EngineError(f"the engine runs, but cannot be reached: {error}") from error
            time.sleep(1)

    def _look_around(self) -> None:
        """Publish a heartbeat, unless a process has ended."""
        if self.engine is not None:
            engine_process.check_alive(self.engine, self.spec)
        if self.sidecar is not None and self.sidecar.poll() is not None:
            # Slurm signals the whole job at once: our SIGTERM may arrive after the sidecar's.
            time.sleep(engine_process.SIGNALS_SETTLE_S)
            raise EngineError(f"the sidecar ended with exit status {self.sidecar.returncode}")
        self.announcer.beat()

    def _walltime_drain_s(self) -> float:
        """Return 70 % of the grace time; the rest is for the engine's stop and the requeue."""
        return self.spec.grace_s * 0.7

    def close_at_walltime(self) -> None:
        """End before the job is requeued."""
        self.close(Phase.DRAINING, drain_s=self._walltime_drain_s())
        self.announcer.enter(Phase.QUEUED)

    def close(self, phase: Phase | None, *, drain_s: float) -> None:
        """End all processes of the replica; a second call does nothing.

        Args:
            phase: phase to publish before, or None.
            drain_s: seconds for streams in flight.
        """
        # Both run() and submitit's checkpoint() close: the second must not publish another phase.
        if self.closed:
            return
        self.closed = True
        signals.deaf()
        if phase is not None:
            self.announcer.enter(phase)
        self._stop_processes(drain_s=drain_s)
        directory.drop_secret(self.root, self.spec.name, self.replica)

    def _stop_processes(self, *, drain_s: float) -> None:
        # The stack unwinds in reverse: the sidecar drains before its engine ends.
        with ExitStack() as stack:
            if self.engine is not None:
                stack.callback(programs.stop, self.engine.process, grace_s=ENGINE_STOP_S)
            if self.sidecar is not None:
                stack.callback(programs.stop, self.sidecar, grace_s=drain_s)
        self.engine = self.sidecar = None


def _cause(error: Exception) -> str:
    """Return the cause of a job's end; an error that is not ours has its type beside its text."""
    if isinstance(error, HpcServeError):
        return str(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:CAUSE_BYTES]
