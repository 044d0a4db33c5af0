"""The gateway's processes: a single process, or a supervisor with workers.

Workers share listening sockets, counts of limits, and engine slots.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from gateway_lite.auth import usage_store
from gateway_lite.auth.rate_limits import Limits
from gateway_lite.auth.usage_store import Shared, UsageStore
from gateway_lite.http import listeners
from gateway_lite.http.server import run_loop
from gateway_lite.process import gateway
from gateway_lite.routing import shared_slots
from gateway_lite.shared_memory import WORKERS, nameless
from gateway_lite.telemetry.workers import WorkerGroup
from hpc import peer_proof
from hpc.errors import ConfigError, GatewayError, HpcServeError
from hpc.keys import store as key_store
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from gateway_lite.http.listeners import Address, Listener
    from gateway_lite.settings import GatewaySettings
    from hpc.config import Config

log = logging.getLogger(__name__)

BACK_OFF_S = (0.1, 10.0)
"""Seconds before an ended worker is started again: at first, and at most."""
STEADY_S = 30.0
"""Seconds of run time after which the end of a worker counts as the first failure again."""
PR_SET_PDEATHSIG = 1


def run(config: Config, address: Address, settings: GatewaySettings, workers: int) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        config: configuration with the state directory.
        address: addresses to listen at.
        settings: timeouts and bounds.
        workers: number of processes that share the work.

    Raises:
        ConfigError: the keys file, a certificate or the number of workers is not usable.
        GatewayError: an address cannot be bound, or the workers do not start.
        StateError: the record of an earlier gateway cannot be read.
    """
    # The last column of the shared files belongs to the supervisor.
    if not 1 <= workers < WORKERS:
        raise ConfigError(f"--workers {workers} is not possible; allowed: 1 to {WORKERS - 1}")
    listeners.check_open(address, anonymous=config.gateway.anonymous)
    key_store.load(directory.keys_path(config.home))
    opened = listeners.open_all(address)
    try:
        if workers == 1:
            run_loop(gateway.serve(config, opened, settings))
        else:
            Supervisor(config, opened, settings, workers).run()
    finally:
        listeners.close_all(opened)


@dataclass
class WorkerProcess:
    """The supervisor's state of one worker process.

    Attributes:
        number: the worker's column in shared files.
        pid: process id; None while the worker is not running.
        since: clock value at its start.
        failures: quick ends in a row.
        again_at: clock value of the next start.
    """

    number: int
    pid: int | None = None
    since: float = 0.0
    failures: int = 0
    again_at: float = 0.0


@dataclass
class Signals:
    """Signals since the last check; the handler only records."""

    end: int = 0
    hangup: bool = False


class Supervisor:
    """The parent of the workers: starts workers, restarts failed workers, and forwards signals.

    It opens no thread and no event loop, so that it can fork at any time.

    Args:
        config: configuration with the state directory.
        opened: listeners from which all workers accept connections.
        settings: timeouts and bounds.
        workers: number of workers.
    """

    def __init__(
        self, config: Config, opened: list[Listener], settings: GatewaySettings, workers: int
    ) -> None:
        self._config = config
        self._opened = opened
        self._settings = settings
        self._group = f"hpc-serve-{secrets.token_hex(8)}"
        self._workers = [WorkerProcess(number) for number in range(workers)]
        self._signals = Signals()
        self._passed = 0
        self._ready = False
        self._failed: int | None = None
        self._started_at = time.time()
        self._proof_secret = peer_proof.new_secret()
        self._attached = os.isatty(0)

    def run(self) -> None:
        """Serve until a signal ends the gateway.

        Raises:
            GatewayError: the shared counts find no memory, or no worker starts.
            StateError: the record of an earlier gateway cannot be read.
        """
        root = self._config.home
        with (
            nameless(usage_store.NUMBERS) as self._counts,
            nameless(shared_slots.NUMBERS) as self._slots,
        ):
            limits = Limits(
                UsageStore(Shared(self._counts, WORKERS - 1)),
                root=root,
                hostname=socket.gethostname(),
            )
            limits.begin()
            self._wakeups = shared_slots.wakeups(len(self._workers))
            self._table = shared_slots.SlotTable(self._slots, WORKERS - 1, self._wakeups)
            # Before any fork, so that all workers inherit them: 0 and 1 wake at signals, and
            # through 3 a worker tells 2 that it listens.
            self._pipes = (*os.pipe(), *os.pipe())
            self._listen_to_signals()
            self._look_after()
            # After the last worker's end: the record then holds the final counts of all workers.
            limits.close()
        self._drop_record()
        if self._failed is not None:
            raise GatewayError(f"the workers do not start: the first ended with {self._failed}")

    def _listen_to_signals(self) -> None:
        for end in self._pipes:
            os.set_blocking(end, False)
        # ``select`` restarts after a handler (PEP 475); the byte in the pipe ends it, also for a
        # signal between the check and ``select``.
        signal.set_wakeup_fd(self._pipes[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        del frame
        if number in (signal.SIGTERM, signal.SIGINT):
            self._signals.end += 1
        elif number == signal.SIGHUP:
            self._signals.hangup = True

    def _look_after(self) -> None:
        """Restart workers and forward signals, until no worker is left after a signal to end."""
        while True:
            self._reap()
            self._pass_signals_on()
            if self._signals.end:
                if not any(worker.pid for worker in self._workers):
                    return
            else:
                self._start_missing()
            select.select([self._pipes[0], self._pipes[2]], [], [], self._pause_s())
            self._drain_pipes()

    def _drain_pipes(self) -> None:
        for end in (self._pipes[0], self._pipes[2]):
            try:
                came = os.read(end, 4096)
            except BlockingIOError:
                continue
            if end == self._pipes[2] and came and not self._ready:
                self._ready = True
                gateway.told(self._opened)

    def _pause_s(self) -> float:
        now = time.monotonic()
        missing = [worker.again_at - now for worker in self._workers if worker.pid is None]
        return max(0.0, min(missing, default=60.0)) if not self._signals.end else 60.0

    def _reap(self) -> None:
        # ``waitpid`` without any child raises, hence the condition.
        while any(worker.pid for worker in self._workers):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            for worker in self._workers:
                if worker.pid == pid:
                    self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: WorkerProcess, code: int) -> None:
        now = time.monotonic()
        worker.pid = None
        # A killed worker could not give back its slots; requests at other workers wait for them.
        self._table.clear(worker.number)
        if self._signals.end:
            return
        if not self._ready:  # a fault that stops the first worker stops all workers
            self._failed = code
            self._signals.end += 1
            return
        worker.failures = 0 if now - worker.since > STEADY_S else worker.failures
        delay_s = min(BACK_OFF_S[1], BACK_OFF_S[0] * 2**worker.failures)
        worker.failures += 1
        worker.again_at = now + delay_s
        log.error("worker %d ended with %d; again in %.1f s", worker.number, code, delay_s)

    def _start_missing(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.pid is None and now >= worker.again_at:
                worker.since = now
                # Taken before the fork: a worker whose supervisor has died already has another.
                supervisor = os.getpid()
                worker.pid = os.fork() or self._become(worker.number, supervisor)

    def _pass_signals_on(self) -> None:
        if self._signals.hangup:
            self._signals.hangup = False
            if self._attached and not os.isatty(0):  # the gateway's terminal was closed
                self._signals.end += 1
            else:
                self._send(signal.SIGHUP)
        while self._passed < self._signals.end:
            self._passed += 1
            self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for worker in self._workers:
            if worker.pid is not None:
                os.kill(worker.pid, number)

    def _become(self, number: int, parent: int) -> NoReturn:
        """Run a worker in the process just forked; never returns."""
        code = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C is for the supervisor, which passes it on
            signal.set_wakeup_fd(-1)
            for each in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(each, signal.SIG_DFL)
            # Ignored until the worker has a handler: SIGHUP asks for a reload, and a new worker
            # reads the files anyway. By default the signal would end the worker.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
            # The supervisor may have died before prctl, which then signals nothing: a worker does
            # not serve alone.
            if os.getppid() == parent:
                run_loop(self._serve(number, parent))
            code = 0
        except HpcServeError as error:
            log.error("%s", error)  # noqa: TRY400 - a sentence, no fault of ours
            code = error.exit_code
        except BaseException:
            log.exception("worker %d failed", number)
        finally:
            logging.shutdown()
            sys.stderr.flush()
            os._exit(code)

    def _serve(self, number: int, parent: int) -> Coroutine[Any, Any, None]:
        place = gateway.WorkerContext(
            group=WorkerGroup(self._group, number, len(self._workers)),
            counts=self._counts,
            slots=self._slots,
            wakeups=self._wakeups,
            pid=parent,
            started_at=self._started_at,
            proof_secret=self._proof_secret,
            ready=self._say_ready,
        )
        return gateway.serve(self._config, self._opened, self._settings, place)

    def _say_ready(self) -> None:
        os.write(self._pipes[3], b".")

    def _drop_record(self) -> None:
        """Remove the gateway's record if a killed worker could not."""
        hostname = socket.gethostname()
        found = directory.load_gateway(self._config.home, hostname)
        if found is not None and found.pid == os.getpid():
            directory.drop_gateway(self._config.home, hostname)
