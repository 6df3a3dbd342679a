"""A headless Chromium for tests of pages, driven by Playwright as users would; such tests are marked browser."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, sync_playwright

HERE = {"127.0.0.1", "localhost", "::1", None}  # hosts of this machine; files, data and blobs have none
NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"  # whatever a page asks for


@dataclass
class BrowserPage:
    """A page and what it did beside what it shows.

    Attributes:
        page: Playwright's; 1280 x 800 until `page.set_viewport_size`.
        outside: addresses beyond this machine that it asked for; none is ever reached.
        errors: uncaught exceptions and error lines of its console.
    """

    page: Page
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def asked(self, address: str) -> None:
        if urlsplit(address).hostname not in HERE:
            self.outside.append(address)


@pytest.fixture
def browser_page() -> Iterator[BrowserPage]:
    """A new page of a new browser, without cookies or cache."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert chromium is not None, "no chromium on this machine: install it (apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", NO_NAMES])
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        watched = BrowserPage(context.new_page())
        context.on("request", lambda request: watched.asked(request.url))
        watched.page.on("websocket", lambda socket: watched.asked(socket.url))
        watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
        watched.page.on("console", lambda line: watched.errors.append(line.text) if line.type == "error" else None)
        try:
            yield watched
        finally:
            browser.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of a folder on this machine alone, as `python -m http.server` does; gives the address."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass
