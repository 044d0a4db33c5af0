"""Folders of packages on the local machine: named folders, and the targets of links."""

from __future__ import annotations

import contextlib
import os
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

from hpc.images.carried import content_of, surely

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAGES = 2000
"""Pages of an index that are read for links: half a second; a mirror of all packages has 700000."""
SEPARATE = 8
"""Folders of files that are shown one by one; of more, the one that holds them all."""
HOPS = 40
"""Symbolic links in a row, as many as Linux follows."""


def local_path(url: str) -> Path | None:
    """Return the path of a ``file:`` address; None for an address of another machine.

    Args:
        url: the address; its query and fragment do not count.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() != "file" or parts.netloc not in {"", "localhost"}:
        return None
    return Path(os.path.normpath(url2pathname(parts.path)))


def of_folder(folder: Path) -> list[Path]:
    """Return a folder of packages and the folders behind its links and pages.

    Args:
        folder: absolute, without symbolic links, as pip makes it.
    """
    with os.scandir(folder) as entries:
        found = sorted(entry.name for entry in entries if _leads_on(entry))
    pages = [folder / name for name in found if name.endswith((".html", ".htm"))]
    targets = [*(folder / name for name in found), *_targets(pages)]
    return [folder, *_outside(folder, targets)]


def of_index(index: Path) -> list[Path]:
    """Return the folder of an index and the folders behind the links of its pages.

    The parent folder would do for the usual ``../../packages``, and show more than is named; links
    may also lead anywhere. So pages are read, the first ``PAGES`` of them.

    Args:
        index: absolute; what its pages say is relative to this path, symbolic link or not.
    """
    with os.scandir(index) as entries:
        projects = [index / entry.name for entry in islice(entries, PAGES)]
    pages = [project / "index.html" for project in projects]
    linked = [path for path in (*projects, *pages) if surely(path.is_symlink)]
    return [index, *_outside(index, [*linked, *_targets(pages)])]


def of_file(file: Path) -> list[Path]:
    """Return the folders needed by a single package or a page of links."""
    targets = [file, *_targets([file] if file.suffix in {".html", ".htm"} else [])]
    return [file.parent, *_outside(file.parent, targets)]


def _leads_on(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() or entry.name.endswith((".html", ".htm"))


def _outside(folder: Path, targets: Iterable[Path]) -> list[Path]:
    """Return the folders, but the one given, through which targets are reached."""
    reached = {hop.parent for target in targets for hop in _hops(target)}
    found = sorted(parent for parent in reached if not parent.is_relative_to(folder))
    if len(found) <= SEPARATE:
        return found
    return [Path(os.path.commonpath(found))]


def _hops(path: Path) -> Iterator[Path]:
    """Yield a path and each next target of a chain of symbolic links."""
    for _ in range(HOPS):
        yield path
        if not surely(path.is_symlink):
            return
        path = Path(os.path.normpath(path.parent / path.readlink()))


def _targets(pages: Iterable[Path]) -> Iterator[Path]:
    """Yield the local targets of the links of pages, a file per folder.

    Symbolic links are yielded all, as each may lead elsewhere.
    """
    seen: set[Path] = set()
    for page in pages:
        with contextlib.suppress(OSError):
            text = content_of(page).decode("utf-8", "replace")
            for link in _links(text, page.as_uri()):
                path = local_path(link)
                if path is not None and (path.parent not in seen or surely(path.is_symlink)):
                    seen.add(path.parent)
                    yield path


def _links(text: str, base: str) -> list[str]:
    parser = _Page(base)
    parser.feed(text)
    return parser.links


class _Page(HTMLParser):
    """The addresses of a page's links."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link, or the address to which links are relative."""
        address = dict(attrs).get("href")
        if address is None or tag not in {"a", "base"}:
            return
        with contextlib.suppress(ValueError):
            whole = urljoin(self.base, address)
            if tag == "base":
                self.base = whole
            else:
                self.links.append(whole)
