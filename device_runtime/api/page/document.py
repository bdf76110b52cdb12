"""The page's document, with its style and script inside, and what a browser may do with it.

What the page shows is written by a model, so the browser is told to run nothing but the one script,
to make no HTML of texts (trusted types), and to speak with nobody but this endpoint. The document
is the same for everybody: it holds no model's name and no key, so it needs no key either.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

from aiohttp import hdrs, web

SCRIPTS = ("endpoint.js", "words.js", "lanes.js", "panel.js", "chat.js")
"""In this order they are one script."""

_HTML = "text/html"


@dataclass(frozen=True, slots=True)
class Page:
    """What is sent to a browser."""

    body: bytes
    headers: Mapping[str, str]


PAGE = web.AppKey("page", Page)


def load_page() -> Page:
    """The document of this folder's files."""
    folder = files(__package__)
    style = (folder / "page.css").read_text("utf-8")
    script = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    document = (folder / "page.html").read_text("utf-8")
    document = document.replace("/* style */", style).replace("/* script */", script)
    return Page(document.encode(), MappingProxyType(_headers(style, script)))


def wants_page(request: web.Request) -> bool:
    """Whether this is somebody's browser that opens the address.

    A browser names HTML, programs take anything (`*/*`) or name JSON.
    """
    accepted = ",".join(request.headers.getall(hdrs.ACCEPT, ())).lower()
    is_asked = request.method in {hdrs.METH_GET, hdrs.METH_HEAD} and request.path == "/"
    return is_asked and any(each.split(";")[0].strip() == _HTML for each in accepted.split(","))


def page_response(page: Page) -> web.Response:
    """The page, never kept by caches: it belongs to the version that serves it."""
    return web.Response(body=page.body, headers=page.headers, content_type=_HTML, charset="utf-8")


def _headers(style: str, script: str) -> dict[str, str]:
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
        str(hdrs.CACHE_CONTROL): "no-store",
        str(hdrs.VARY): "Accept",
    }


def _hash(text: str) -> str:
    """How a policy names one inline text. Source: W3C, Content Security Policy 3, section 2.3.1."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
