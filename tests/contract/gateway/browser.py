"""A headless Chromium of this machine, driven by playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser; without one, tests are skipped, and fail in CI."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        lacking = f"needs one of {', '.join(NAMES)}"
        assert not os.environ.get("CI"), lacking
        pytest.skip(lacking)
    with sync_playwright() as playwright:
        # Root has no sandbox of its own; the pages are our own.
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=program, args=sandbox)
        try:
            yield browser
        finally:
            browser.close()
