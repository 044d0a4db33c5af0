"""OpenAI-compatible server over llama-cpp-python: one model, one request at a time, in order.

Requests queue and never abort one another; a client that leaves stops its generation at the next
token, or leaves the queue. Variables configure it:

    MODEL_NAME      path of a GGUF file, or ORG/NAME:FILE.gguf of Hugging Face (with REVISION)
    MODEL_ALIAS     the model's name in the API [default: its file's name]
    SOCKET          Unix socket to listen on
    HOST, PORT      TCP address without SOCKET [127.0.0.1, 8080]; port 0 takes a free one
    CONTEXT_SIZE    tokens of prompt and answer together [4096]; 0 is what the model was trained on
    API_KEY         key that clients must present; none is asked for without it
    N_GPU_LAYERS    layers on the GPU, -1 is all [-1 if CUDA_VISIBLE_DEVICES names any, else 0]
    N_THREADS       CPU threads [those this process may use]
    QUEUE_SIZE      requests that may wait [64]
    CHAT_FORMAT     llama-cpp-python's name of a chat format [the template in the GGUF file]
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from gguf_schema import (
    BUSY,
    ELSEWHERE,
    ApiError,
    ChatBody,
    TextBody,
    explained,
    json_schema,
    text_only,
)
from gguf_worker import Job, Settings, Worker
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator

    from gguf_schema import Body
    from gguf_worker import Model

log = logging.getLogger("gguf_api_server")

DRAIN_S = 3
"""Seconds that answers in progress get after SIGTERM."""


class Api:
    """The HTTP side of the server.

    Args:
        settings: what the environment says.
        worker: the thread that generates.
    """

    def __init__(self, settings: Settings, worker: Worker) -> None:
        self.settings, self.worker = settings, worker
        self.created = int(time.time())

    def app(self) -> FastAPI:
        """Return the application: /health is open to all, the rest asks for the key."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.get("/health")(self.health)
        guarded = APIRouter(dependencies=[Depends(self.check_key)])
        guarded.get("/metrics")(self.metrics)
        guarded.get("/v1/models")(self.models)
        guarded.post("/v1/completions")(self.complete)
        guarded.post("/v1/chat/completions")(self.chat)
        for path in ("/v1/embeddings", "/v1/responses", "/v1/rerank"):
            guarded.post(path)(self.elsewhere)
        app.include_router(guarded)
        for kind in (ApiError, RequestValidationError, HTTPException, Exception):
            app.exception_handler(kind)(self.on_error)
        return app

    async def on_error(self, request: Request, error: Exception) -> Response:
        """Answer any error in OpenAI's schema."""
        del request
        return explained(error).response()

    async def check_key(self, request: Request) -> None:
        """Refuse who does not present the key."""
        given = request.headers.get("authorization", "").encode()
        wanted = f"Bearer {self.settings.key}".encode()
        if self.settings.key and not hmac.compare_digest(given, wanted):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    async def health(self) -> Response:
        """Tell whether the model is loaded."""
        loaded = self.worker.model is not None
        return JSONResponse({"status": "ok" if loaded else "loading"}, 200 if loaded else BUSY)

    async def metrics(self) -> Response:
        """Return counters in Prometheus' text format."""
        return Response(generate_latest(self.worker.registry), media_type=CONTENT_TYPE_LATEST)

    async def models(self) -> dict[str, Any]:
        """List the one model."""
        name, created = self.settings.name, self.created
        model = {"id": name, "object": "model", "created": created, "owned_by": "hpc-serve"}
        window = {"max_model_len": self.settings.context} if self.settings.context else {}
        return {"object": "list", "data": [{**model, **window}]}

    async def chat(self, body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        given = self.arguments(body) | {"messages": text_only(body.messages)}
        if (wanted := json_schema(body.response_format)) is not None:
            given["response_format"] = {"type": "json_object", "schema": wanted}
        if body.max_completion_tokens is not None:
            given["max_tokens"] = body.max_completion_tokens
        return await self.answer(request, body, lambda model: model.create_chat_completion(**given))

    async def complete(self, body: TextBody, request: Request) -> Response:
        """Continue a text."""
        given = self.arguments(body)
        several = isinstance(body.prompt, list) and not isinstance(body.prompt[0], int)
        prompts: list[Any] = list(body.prompt) if several else [body.prompt]

        def call(model: Model) -> Any:
            made: Any = (model.create_completion(**{**given, "prompt": one}) for one in prompts)
            return in_turn(made) if body.stream else together(list(made), model)

        return await self.answer(request, body, call)

    async def elsewhere(self, request: Request) -> Response:
        """Name the server that serves the path."""
        raise ApiError(404, f"{request.url.path} is not served here; {ELSEWHERE}")

    def arguments(self, body: Body) -> dict[str, Any]:
        """Return the library's arguments, with OpenAI's defaults where the library has its own.

        Raises:
            ApiError: another model is asked for.
        """
        name = self.settings.name
        if body.model not in {None, name}:
            raise ApiError(404, f"there is no model {body.model!r} here", code="model_not_found")
        apart = {"stream_options", "n", "max_completion_tokens", "messages"}
        given = body.model_dump(exclude_none=True, exclude=apart)
        return {"temperature": 1.0, "top_p": 1.0, "repeat_penalty": 1.0, **given, "model": name}

    async def answer(self, request: Request, body: Body, call: Callable[[Model], Any]) -> Response:
        """Queue a request and answer it; the status waits for the first chunk, and so tells."""
        if self.worker.model is None:
            raise ApiError(BUSY, "the model is still loading", kind="overloaded_error")
        job = Job(call)
        if not self.worker.submit(job):
            raise ApiError(BUSY, "too many requests wait here", kind="overloaded_error")
        watch = asyncio.create_task(self.watch(request, job))
        events = self.events(job, watch)
        first = await anext(events, None)
        if isinstance(first, Exception):
            raise explained(first)
        if first is None or not body.stream:
            await events.aclose()
            return JSONResponse(first)
        usage = body.stream_options is not None and body.stream_options.include_usage
        stream = self.stream(job, first, events, usage=usage)
        return StreamingResponse(stream, media_type="text/event-stream")

    async def watch(self, request: Request, job: Job) -> None:
        """Wait until the client leaves or has its answer; then nobody needs the job."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.worker.leave(job)

    async def events(
        self, job: Job, watch: asyncio.Task[None]
    ) -> AsyncGenerator[dict[str, Any] | Exception, None]:
        """Yield what the worker says; whoever stops listening ends the job."""
        try:
            while (event := await job.events.get()) is not None:
                yield event
        finally:
            watch.cancel()
            self.worker.leave(job)

    async def stream(
        self,
        job: Job,
        first: dict[str, Any],
        events: AsyncGenerator[dict[str, Any] | Exception, None],
        *,
        usage: bool,
    ) -> AsyncIterator[str]:
        """Yield server-sent events, as OpenAI's clients read them."""
        async with contextlib.aclosing(events):
            yield sse(first)
            async for event in events:
                yield sse(explained(event).body if isinstance(event, Exception) else event)
        if usage and job.usage:
            yield sse({**first, "choices": [], "usage": job.usage})
        yield "data: [DONE]\n\n"


def in_turn(streams: Iterable[Iterable[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of several prompts' streams, each with its prompt's index."""
    for index, stream in enumerate(streams):
        for chunk in stream:
            yield {**chunk, "choices": [{**one, "index": index} for one in chunk["choices"]]}


def together(answers: list[dict[str, Any]], model: Model) -> dict[str, Any]:
    """Return the answers to several prompts as one, with the tokens of all."""
    choices = [{**one["choices"][0], "index": index} for index, one in enumerate(answers)]
    return {**answers[0], "choices": choices, "usage": model.usage}


def sse(event: dict[str, Any]) -> str:
    """Return one server-sent event."""
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def listen(settings: Settings) -> socket.socket:
    """Return the bound socket: a Unix socket that only we can open, or a TCP port.

    Raises:
        OSError: the address is in use, or cannot be ours.
    """
    if settings.socket is None:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        bound.bind(settings.socket)
    finally:
        os.umask(mask)
    bound.listen()
    return bound


def main() -> int:
    """Serve until SIGTERM; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        settings = Settings.model_validate({k: v for k, v in os.environ.items() if v})
        bound = listen(settings)
    except ValidationError as error:
        first = error.errors()[0]
        log.error("%s: %s", first["loc"][0], first["msg"])  # noqa: TRY400 - one clear line
        return 2
    except OSError as error:
        where = "SOCKET" if os.environ.get("SOCKET") else "PORT"
        log.error("cannot listen where %s says: %s", where, error.strerror)  # noqa: TRY400
        return 1
    log.info("listening on %s", bound.getsockname())
    worker = Worker(settings, on_failure=lambda: setattr(server, "should_exit", True))
    config = uvicorn.Config(
        Api(settings, worker).app(),
        log_level="warning",
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = uvicorn.Server(config)
    # uvicorn ends by raising again the signal that ended it; then there is still work to do.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker.start()
    server.run(sockets=[bound])
    worker.stop()
    if settings.socket:
        Path(settings.socket).unlink(missing_ok=True)
    if worker.failure is not None:
        log.error("cannot load %s: %s", settings.model, worker.failure)
    sys.stdout.flush()
    # Not sys.exit: a thread still in llama.cpp would crash when its library is torn down.
    os._exit(1 if worker.failure is not None else 0)


if __name__ == "__main__":
    sys.exit(main())
