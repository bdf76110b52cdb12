"""A real Chromium, of this machine, that opens a page and remembers what it asked for and said."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)


def skip_without_browser() -> None:
    """Skip the module: no Chromium here, or nothing to drive it with."""
    pytest.importorskip("playwright.async_api", reason="no playwright: pip install -e '.[dev]'")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt install chromium", allow_module_level=True)


@dataclass
class Opened:
    """A page in the browser."""

    page: Any
    """Playwright's own page."""
    requests: list[str] = field(default_factory=list)
    """Every URL that it asked for, also those that were refused."""
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of its console, exceptions, and dialogs that it opened."""

    def foreign_requests(self, url: str) -> list[str]:
        """What it asked anybody else for; a `data:` address asks nobody."""
        own = urlsplit(url).netloc
        parts = [(each, urlsplit(each)) for each in self.requests]
        return [each for each, part in parts if part.scheme != "data" and part.netloc != own]


@asynccontextmanager
async def opened_page(url: str, **context: Any) -> AsyncIterator[Opened]:
    """The page at `url`; `context` is Playwright's: viewport, colour scheme."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM)
        try:
            page = await (await browser.new_context(**context)).new_page()
            page.set_default_timeout(20_000)
            opened = Opened(page)
            page.on("request", lambda request: opened.requests.append(request.url))
            page.on("pageerror", lambda error: opened.complaints.append(str(error)))
            page.on(
                "console",
                lambda said: (
                    said.type in {"error", "warning"} and opened.complaints.append(said.text)
                ),
            )
            page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
            await page.goto(url)
            yield opened
        finally:
            await browser.close()
