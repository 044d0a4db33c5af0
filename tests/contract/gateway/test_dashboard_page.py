"""The dashboard as somebody sees it in a browser."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from hpc.model import Phase
from tests.contract.gateway.browser import chromium
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import run_gateway, save_replica, save_service
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.contract.gateway.programs import Running

USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
PATIENCE_MS = 1000 * PATIENCE_S
STRANGE = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return one browser for all tests."""
    expect.set_options(timeout=PATIENCE_MS)
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Return an empty tab, in which no script may fail and no rule be broken."""
    context = browser.new_context(color_scheme="light")
    context.set_default_timeout(PATIENCE_MS)
    tab = context.new_page()
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    yield tab
    context.close()
    assert [fault for fault in faults if "Failed to load resource" not in fault] == []


def enter(page: Page, gateway: Running) -> None:
    """Open the dashboard, and give it the key."""
    page.goto(gateway.url + "/dashboard")
    page.get_by_label("Key", exact=True).fill(gateway.key)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("status")).to_have_text("live")


def test_it_asks_for_a_key_once_and_shows_what_goes_on(page: Page, gateway: Running) -> None:
    for _ in range(3):
        gateway.post({"usage": USAGE})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    enter(page, gateway)
    tiles = page.locator("#tiles")

    expect(tiles).to_contain_text("3 in 5 min")
    expect(page.locator("#models article")).to_have_count(1)
    expect(page.locator("#models")).to_contain_text("1 of 1 ready")
    expect(page.locator("#charts svg")).to_have_count(4)
    gateway.post({"usage": USAGE})
    expect(tiles).to_contain_text("4 in 5 min")
    page.reload()
    expect(tiles).to_contain_text("4 in 5 min")
    assert not [url for url in asked if gateway.key in url or not url.startswith(gateway.url)]
    assert page.evaluate("Object.values(localStorage).join()") == ""


def test_a_wrong_key_is_told_and_forgotten(page: Page, gateway: Running) -> None:
    page.goto(gateway.url + "/dashboard")
    for wrong in ("hs-wrong", "not a key ä", ""):
        page.get_by_label("Key", exact=True).fill(wrong)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_be_visible()
        assert page.evaluate("sessionStorage.getItem('hpc-serve-key')") is None
    expect(page.locator("#main")).to_be_hidden()


def test_a_gateway_that_asks_for_no_key_needs_none_here(page: Page, home: Path) -> None:
    with serve(Engine()) as url, run_gateway(home, {"m": url}, policy={"anonymous": True}) as open_:
        page.goto(open_.url + "/dashboard")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("#models article")).to_have_count(1)
        page.reload()
        expect(page.locator("#models article")).to_have_count(1)


def test_the_key_can_be_forgotten(page: Page, gateway: Running) -> None:
    enter(page, gateway)
    page.get_by_role("button", name="Forget key").click()

    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    expect(page.locator("#models")).not_to_be_visible()
    assert page.evaluate("sessionStorage.getItem('hpc-serve-key')") is None


def test_a_gateway_that_is_gone_is_told(page: Page, home: Path) -> None:
    with serve(Engine()) as url, run_gateway(home, {"m": url}) as gateway:
        enter(page, gateway)
        gateway.process.kill()
        gateway.process.wait()
        expect(page.get_by_role("status")).to_have_text("no answer")
        expect(page.locator("#lost")).to_contain_text("What is shown is from")
    port = gateway.port
    with socket.create_server(("127.0.0.1", port)), serve(Engine()):
        expect(page.get_by_role("status")).to_have_text("no answer")
    with serve(Engine()) as url, run_gateway(home / "b", {"m": url}, "--port", str(port)):
        # Another gateway with other keys: this one is not known there.
        expect(page.get_by_label("Key", exact=True)).to_be_visible()


def test_replicas_are_shown_with_their_jobs_and_time(page: Page, home: Path) -> None:
    engine = Engine()
    save_service(home, replicas=3)
    with serve(engine) as url:
        save_replica(home, url, ends_at=9e9, job_id="4711")
        save_replica(home, url, number=1, phase=Phase.FAILED, cause=STRANGE)
        with run_gateway(home) as gateway:
            enter(page, gateway)
            rows = page.locator("#models tbody tr")
            expect(rows).to_have_count(3)
            expect(rows.nth(0)).to_contain_text("4711")
            expect(rows.nth(0)).to_contain_text(re.compile(r"\d+\sd\s\d+\sh"))
            expect(rows.nth(1)).to_contain_text(STRANGE)
            expect(rows.nth(2)).to_contain_text("QUEUED")
            assert page.title() == "hpc-serve gateway"


def test_it_is_light_or_dark_as_the_reader_likes(page: Page, gateway: Running) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    enter(page, gateway)
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{background} != '{light}'")
    dark = page.evaluate(background)
    button = page.get_by_role("button", name=re.compile("Theme"))
    button.click()
    expect(button).to_have_text("Theme: light")
    assert page.evaluate(background) == light
    page.reload()
    expect(button).to_have_text("Theme: light")
    button.click()
    assert page.evaluate(background) == dark


def test_it_works_by_keyboard_alone(page: Page, gateway: Running) -> None:
    gateway.post({"usage": USAGE})
    page.goto(gateway.url + "/dashboard")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.type(gateway.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("live")
    window = page.get_by_role("button", name="15 min")
    window.focus()
    page.keyboard.press("Enter")
    expect(window).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#tiles")).to_contain_text("1 in 15 min")
    chart = page.get_by_role("img", name=re.compile("^Requests over 15 minutes"))
    chart.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#charts .cursor")).to_have_count(4)
    expect(chart).to_contain_text(re.compile(r"\d+:\d\d:\d\d"))


def test_it_fits_on_a_phone(browser: Browser, gateway: Running) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    enter(page, gateway)
    expect(page.locator("#models article")).to_have_count(1)

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()
