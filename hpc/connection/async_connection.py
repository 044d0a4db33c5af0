"""The tunnel connection for programs and notebooks with asyncio."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from hpc.connection.connection import connect, openai_package

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import httpx
    import openai
    from typing_extensions import Self

    from hpc.connection.connection import ClusterConnection


class AsyncConnection:
    """An open connection to a gateway; made by ``aconnect``.

    Args:
        connection: the synchronous connection, kept open by its own thread.
    """

    def __init__(self, connection: ClusterConnection) -> None:
        self._connection = connection

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI clients."""
        return self._connection.base_url

    @property
    def key(self) -> str:
        """The API key of the gateway."""
        return self._connection.key

    @property
    def key_file(self) -> Path:
        """A private file with the key, present while the connection is open."""
        return self._connection.key_file

    async def models(self) -> list[str]:
        """Return the names of the served models.

        Raises:
            httpx.HTTPError: the gateway did not answer with a list.
        """
        async with self.httpx() as client:
            answer = (await client.get("/models")).raise_for_status().json()
        return [str(model["id"]) for model in answer["data"]]

    def httpx(self, **options: Any) -> httpx.AsyncClient:
        """Return a client for paths below ``/v1``, with the key in its headers.

        Args:
            options: further arguments of ``httpx.AsyncClient``.
        """
        import httpx  # noqa: PLC0415 - as in hpc.connection

        return httpx.AsyncClient(**self._connection.client_options(options))

    def openai(self, **options: Any) -> openai.AsyncOpenAI:
        """Return a ready asynchronous client of the openai package.

        Args:
            options: further arguments of ``openai.AsyncOpenAI``.

        Raises:
            ConfigError: the package is not installed.
        """
        package = openai_package()
        if "http_client" not in options:
            options["http_client"] = package.DefaultAsyncHttpxClient(trust_env=False)
        client: openai.AsyncOpenAI = package.AsyncOpenAI(
            base_url=self.base_url, api_key=self.key, **options
        )
        return client

    async def aclose(self) -> None:
        """End the connection; no process, port, socket or file stays behind."""
        await asyncio.to_thread(self._connection.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return repr(self._connection).replace("hpc.connect", "hpc.aconnect", 1)


class Opening:
    """A connection to be opened with ``await`` or ``async with``."""

    def __init__(self, open_it: functools.partial[ClusterConnection]) -> None:
        self._open_it = open_it
        self._opened: AsyncConnection | None = None

    def __await__(self) -> Generator[Any, None, AsyncConnection]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncConnection:
        return await self._open()

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            await self._opened.aclose()

    async def _open(self) -> AsyncConnection:
        # Connecting waits for SSH and may ask the user: in a thread, so that the loop goes on.
        self._opened = AsyncConnection(await asyncio.to_thread(self._open_it))
        return self._opened


def aconnect(destination: str, **options: Any) -> Opening:
    """Open a tunnel to the gateway of a cluster without blocking the event loop.

    Args:
        destination: ``USER@LOGIN``, or a section of your SSH configuration.
        options: as for ``hpc.connect``.
    """
    return Opening(functools.partial(connect, destination, **options))
