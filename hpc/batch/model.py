"""The records of batches: frozen values without behaviour or I/O."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """The specification of a batch.

    Attributes:
        id: name of the batch and of its folder.
        source: the input file as the user gave it.
        output: absolute path of the output file.
        service: the service whose replicas answer; with None each job starts an engine.
        rows: number of requests.
        chunk_rows: requests in a chunk; the last chunk may have fewer.
        chunks: number of chunks.
        workers: number of jobs at the first submission.
        in_flight: most requests that a worker has in flight.
        timeout_s: seconds for one try of a request.
        retries: further tries of a failed request.
        made_at: Unix time of the submission.
        max_hours: hours of work until the batch pauses; None sets no limit.
        on_done: shell command to run after the last answer.
        model_patience_s: seconds without the model at the gateway until the batch pauses.
    """

    id: str
    source: str
    output: str
    service: str | None
    rows: int
    chunk_rows: int
    chunks: int
    workers: int = 1
    in_flight: int = 256
    timeout_s: float = 600.0
    retries: int = 5
    made_at: float = 0.0
    max_hours: float | None = None
    on_done: str | None = None
    model_patience_s: float = 3600.0
    schema: int = 1


@dataclass(frozen=True, slots=True)
class BatchWorker:
    """The heartbeat of a batch's worker; times are Unix seconds.

    Attributes:
        name: name of the worker, never used by another process.
        job_id: the worker's job, which may run again under another name.
        good: number of answered requests.
        failed: number of failed requests.
        retried: number of requests sent again.
        tokens: number of completion tokens received.
        in_flight: number of requests in flight.
        limit: current limit of requests in flight.
        ended: whether the worker left in good order.
        cause: the reason of a wait, or None.
        gpus: number of GPUs of the job.
        history: samples of time, requests and tokens so far, thinned.
    """

    name: str
    job_id: str
    host: str
    started_at: float
    beat_at: float
    phase: str = "STARTING"
    good: int = 0
    failed: int = 0
    retried: int = 0
    tokens: int = 0
    in_flight: int = 0
    limit: int = 0
    ended: bool = False
    cause: str | None = None
    gpus: int = 0
    history: tuple[tuple[float, int, int], ...] = ()
    schema: int = 1


@dataclass(frozen=True, slots=True)
class BatchTarget:
    """The server that answers the requests.

    Attributes:
        url: address without ``/v1``.
        key: the server's API key, or None.
        socket: Unix socket of the server, or None.
        home: state directory whose gateway on this machine is the server, or None; each
            connection is then proved, and ``url`` and ``socket`` say nothing about its way.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    socket: str | None = None
    home: str | None = None
