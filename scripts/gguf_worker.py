"""The model behind gguf_api_server.py: settings, queue, and the one thread that generates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

log = logging.getLogger("gguf_api_server")

SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
JOIN_S = 3
"""Seconds that the thread gets to end."""


class Settings(BaseModel):
    """What the environment says; empty variables count as unset."""

    model: str = Field(alias="MODEL_NAME")
    alias: str = Field("", alias="MODEL_ALIAS")
    revision: str | None = Field(None, alias="REVISION")
    socket: str | None = Field(None, alias="SOCKET")
    host: str = Field("127.0.0.1", alias="HOST")
    port: int = Field(8080, alias="PORT", ge=0, le=65535)
    context: int = Field(4096, alias="CONTEXT_SIZE", ge=0)
    key: str = Field("", alias="API_KEY")
    devices: str = Field("", alias="CUDA_VISIBLE_DEVICES")
    gpu_layers: int | None = Field(None, alias="N_GPU_LAYERS")
    threads: int = Field(len(os.sched_getaffinity(0)), alias="N_THREADS", ge=1)
    queue: int = Field(64, alias="QUEUE_SIZE", ge=1)
    chat_format: str | None = Field(None, alias="CHAT_FORMAT")

    @property
    def name(self) -> str:
        """The model's name in the API."""
        return self.alias or Path(self.model.rpartition(":")[2]).stem


def find_weights(settings: Settings) -> str:
    """Return the path of the GGUF file, downloading it if it is Hugging Face's and not cached.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: Hugging Face does not give it.
    """
    repo, _, file = settings.model.partition(":")
    if settings.model.startswith(("/", "./", "../")) or not file or Path(settings.model).exists():
        if not Path(settings.model).is_file():
            raise FileNotFoundError(f"there is no model file {settings.model}")
        return settings.model
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only for downloads

    parts = [file]
    if match := SPLIT.search(file):
        stem, count = file[: match.start()], int(match[2])
        parts = [f"{stem}-{number:05d}-of-{match[2]}.gguf" for number in range(1, count + 1)]
    paths = [hf_hub_download(repo, part, revision=settings.revision) for part in parts]
    return str(paths[parts.index(file)])


class Left(Exception):  # noqa: N818 - no error
    """The client of the running request is gone."""


class Model(llama_cpp.Llama):
    """A model that counts tokens, and stops between two of them when the client is gone."""

    left = threading.Event()
    prompt_tokens = 0
    completion_tokens = 0

    def generate(  # type: ignore[override]
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Generator[int, None, None]:
        """Generate as the library does, and count."""
        self.prompt_tokens += len(tokens)
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        for token in super().generate(tokens, *args, **kwargs):
            if not llama_cpp.llama_vocab_is_eog(vocabulary, token):
                self.completion_tokens += 1
            yield token

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate in the library's batches, looking up between them.

        Raises:
            Left: the client is gone.
        """
        for start in range(0, len(tokens), self.n_batch):
            if self.left.is_set():
                raise Left
            super().eval(tokens[start : start + self.n_batch])

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of the last request, as OpenAI counts them."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


def load(settings: Settings) -> Model:
    """Load the model; llama.cpp says on stderr what it does until then, and no more after.

    Raises:
        OSError: there is no such file.
        ValueError: llama.cpp cannot load it.
    """
    layers = settings.gpu_layers
    model = Model(
        find_weights(settings),
        n_ctx=settings.context,
        n_gpu_layers=layers if layers is not None else -1 if settings.devices else 0,
        n_threads=settings.threads,
        n_threads_batch=settings.threads,
        chat_format=settings.chat_format,
        verbose=True,
    )
    model.verbose = False
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    return model


class Job:
    """One request on its way through the worker."""

    def __init__(self, call: Callable[[Model], Any]) -> None:
        self.call = call
        self.left = threading.Event()
        self.events: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        self.usage: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()

    def send(self, event: dict[str, Any] | Exception | None) -> None:
        """Hand a chunk, an error or the end (None) to the request, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


class Worker(threading.Thread):
    """The one thread that loads the model and generates.

    Args:
        settings: what to load.
        on_failure: called when it cannot be loaded.
    """

    def __init__(self, settings: Settings, on_failure: Callable[[], None]) -> None:
        super().__init__(name="worker", daemon=True)
        self.settings, self.on_failure = settings, on_failure
        self.model: Model | None = None
        self.failure: Exception | None = None
        self.registry = CollectorRegistry()
        self._waiting: deque[Job | None] = deque()
        self._changed = threading.Condition()
        self._running: Job | None = None
        # The names are those of llama-server, so that one dashboard reads both.
        self._prompt = self._counter("prompt_tokens", "Prompt tokens processed")
        self._predicted = self._counter("tokens_predicted", "Tokens generated")
        self._seconds = self._counter("busy_seconds", "Seconds spent on requests")
        self._gauge("requests_processing", "Requests answered now", lambda: int(self.busy))
        self._gauge("requests_deferred", "Requests that wait", lambda: len(self._waiting))

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"llamacpp:{name}", text, registry=self.registry)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(f"llamacpp:{name}", text, registry=self.registry).set_function(read)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._running is not None

    def submit(self, job: Job) -> bool:
        """Queue a request; False if too many wait."""
        with self._changed:
            if len(self._waiting) >= self.settings.queue:
                return False
            self._waiting.append(job)
            self._changed.notify()
        return True

    def leave(self, job: Job) -> None:
        """Stop a request, or take it out of the queue."""
        job.left.set()
        job.send(None)
        with self._changed, contextlib.suppress(ValueError):
            self._waiting.remove(job)

    def stop(self) -> None:
        """End all requests and the thread."""
        with self._changed:
            for job in [*self._waiting, self._running]:
                if job is not None:
                    job.left.set()
            self._waiting.append(None)
            self._changed.notify()
        self.join(JOIN_S)

    def run(self) -> None:
        """Load, then answer requests until ``stop``."""
        try:
            self.model = load(self.settings)
        except Exception as error:  # noqa: BLE001 - whatever it is, the server must not stay
            self.failure = error
            self.on_failure()
            return
        log.info("model %s is ready", self.settings.name)
        while (job := self._next()) is not None:
            self._answer(self.model, job)
            self._running = None

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            self._running = self._waiting.popleft()
            return self._running

    def _answer(self, model: Model, job: Job) -> None:
        model.left, model.prompt_tokens, model.completion_tokens = job.left, 0, 0
        started = time.monotonic()
        try:
            result = job.call(model)
            for chunk in [result] if isinstance(result, dict) else result:
                job.send(chunk)
            job.usage = model.usage
            job.send(None)
        except Left:
            log.info("a client left after %d tokens", model.completion_tokens)
        except Exception as error:
            if not isinstance(error, ValueError):
                log.exception("a request failed")
                model.reset()  # type: ignore[no-untyped-call]
            job.send(error)
        self._prompt.inc(model.prompt_tokens)
        self._predicted.inc(model.completion_tokens)
        self._seconds.inc(time.monotonic() - started)
