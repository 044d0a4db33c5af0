"""OpenAI's Files API: input files of batches, and their results."""

from __future__ import annotations

import logging
import shutil
import time
from typing import TYPE_CHECKING

from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from gateway_lite import errors
from gateway_lite.api.batches import common, expiry, multipart
from hpc.openai_batches import records as batch_records
from hpc.openai_batches.records import StoredFile
from hpc.state import directory, lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.requests import Request

    from gateway_lite.api.batches.common import Json
    from gateway_lite.auth.rate_limits import Limits
    from hpc.gateway_policy import GatewayPolicy

log = logging.getLogger(__name__)

MIB = 1024 * 1024
ROOM = 16
"""Quota of a key's files, as a multiple of the largest file."""
FILES = 10_000
"""Files on a page if the client gives no limit."""


class FilePages:
    """The paths below ``/v1/files``.

    Args:
        root: the state directory.
        policy: returns the gateway's policy; a largest file of 0 serves no files.
        limits: the limits of keys, which hold here too.
    """

    def __init__(self, root: Path, policy: Callable[[], GatewayPolicy], limits: Limits) -> None:
        self._root = root
        self._policy = policy
        self._limits = limits

    def _largest(self) -> int:
        """Return the largest size of a file in bytes."""
        return self._policy().batch_file_mib * MIB

    def routes(self) -> list[Route]:
        """Return the routes of these paths."""
        every, one, content = (
            common.counted(self._limits, page) for page in (self.all, self.one, self.content)
        )
        return [
            Route("/v1/files", every, methods=["GET", "POST"]),
            Route("/v1/files/{file_id}", one, methods=["GET", "DELETE"]),
            Route("/v1/files/{file_id}/content", content),
        ]

    async def all(self, request: Request) -> Response:
        """List the files of the key, or store an uploaded file.

        Raises:
            ApiError: the request is invalid, or the state directory not usable.
        """
        if not self._largest():
            raise common.off()
        if request.method == "POST":
            return JSONResponse(await self._take(request))
        known = await common.on_disk(batch_records.files, self._root, common.owner(request))
        params = request.query_params
        purpose = params.get("purpose")
        told = [shown(one) for one in known if purpose in (None, "", one.purpose)]
        if params.get("order") == "asc":
            told.reverse()
        return JSONResponse(common.page(told, request, most=FILES))

    async def _take(self, request: Request) -> Json:
        key, largest = common.owner(request), self._largest()
        # A draft becomes a file by one rename: a list never shows a half-written file.
        draft = await common.on_disk(self._draft, key, multipart.announced(request, largest))
        try:
            form = await multipart.receive(request, draft / "content", largest)
            if form.fields.get("purpose") != "batch":
                said = form.fields.get("purpose", "")[: errors.LONGEST]
                told = f"the purpose {said!r} is not served; allowed: 'batch'"
                raise errors.bad_request(told, param="purpose")
            kept_s = expiry.lifetime(expiry.in_form(form.fields), "expires_after")
            now = int(time.time())
            file = StoredFile(
                id=batch_records.new_id("file-"),
                key=key,
                filename=str(form.filename),
                purpose="batch",
                size=form.size,
                created_at=now,
                expires_at=None if kept_s is None else now + kept_s,
            )
            await common.on_disk(batch_records.keep, self._root, draft, file)
        except OSError as error:
            log.warning("cannot keep a file: %s", error)
            raise common.trouble() from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return shown(file)

    def _draft(self, key: str, size: int) -> Path:
        """Make a folder for an upload, and so reserve its bytes.

        Raises:
            ApiError: the key has no room for so many bytes, or for another file.
        """
        room, most = ROOM * self._largest(), self._policy().batch_files
        # Locked: of uploads that begin at once, at several workers, each sees those before it.
        with lock.exclusive(directory.stored_files_dir(self._root, key) / "drafts"):
            stock = batch_records.stock(self._root, key)
            if stock.files >= most:
                raise common.too_many_files(most)
            if stock.size + size > room:
                raise common.full(room)
            return batch_records.drafted(self._root, key, size)

    async def one(self, request: Request) -> Response:
        """Describe a file, or remove the file.

        Raises:
            ApiError: no file has this id, or the state directory is not usable.
        """
        file = await self._find(request)
        if request.method == "DELETE":
            await common.on_disk(batch_records.drop_file, self._root, file.key, file.id)
            return JSONResponse({"id": file.id, "object": "file", "deleted": True})
        return JSONResponse(shown(file))

    async def content(self, request: Request) -> Response:
        """Answer with the content of a file.

        Raises:
            ApiError: no file has this id, or the state directory is not usable.
        """
        file = await self._find(request)
        path = batch_records.file_dir(self._root, file.key, file.id) / "content"
        return FileResponse(path, media_type="application/octet-stream")

    async def _find(self, request: Request) -> StoredFile:
        if not self._largest():
            raise common.off()
        name = request.path_params["file_id"]
        return await common.find(batch_records.load_file, self._root, request, name, common.no_file)


def shown(file: StoredFile) -> Json:
    """Return a file in OpenAI's form."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "expires_at": file.expires_at,
    }
