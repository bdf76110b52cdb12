"""An HTML page taken apart: its ids, its links, what it would load, and its text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

_LOADING = ("src", "srcset", "data", "poster", "action", "background")


@dataclass
class Page:
    """`links` are of `href` and `url(...)` alike; `loads` of attributes that fetch something."""

    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    text: str = ""


def read_page(html: str) -> Page:
    """Take a page apart."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.page


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags.append(tag)
        for name, value in attrs:
            text = value or ""
            if name == "id":
                self.page.ids.append(text)
            elif name in ("href", "xlink:href"):
                self.page.links.append(text)
            elif name in _LOADING:
                self.page.loads.append(text)
            elif "url(" in text:
                self.page.links.append(text.partition("url(")[2].partition(")")[0])

    def handle_data(self, data: str) -> None:
        self.page.text += data
