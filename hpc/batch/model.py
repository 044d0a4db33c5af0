"""The nouns of batches: frozen values without behaviour or I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """A file of requests to answer.

    Attributes:
        id: names the batch and its folder.
        source: the file as the user gave it.
        output: absolute path of the file with the answers.
        service: the service whose replicas answer; None brings an engine in each job.
        rows: requests.
        chunk_rows: requests of a chunk; the last may have fewer.
        chunks: how many there are.
        workers: jobs that were asked for.
        in_flight: requests that a worker has in flight at most.
        timeout_s: seconds that one request may take.
        retries: how often a request that failed is sent again.
        made_at: Unix time.
        max_hours: hours of work after which it pauses; None has no end.
        on_done: shell command that is run once all is answered.
        model_patience_s: seconds without the model at the gateway after which it pauses.
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
    """What a worker of a batch says of itself, and its job's GPUs; times are Unix seconds.

    Attributes:
        name: no other process ever has it.
        job_id: its job, which may run again under another name.
        good: requests it has had answered.
        failed: requests it has given up.
        retried: requests it has sent again.
        tokens: completion tokens it has received.
        in_flight: requests on their way just now.
        limit: the most it would have.
        ended: whether it left on its own.
        cause: what it waits for, or None.
        history: moments with the requests and tokens it had had by then, thinned.
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
