"""Who gets the page at `/`, and what a browser is told about it; no browser is needed here."""

import re

import pytest

from device_runtime.api.service import AccessRules
from tests.support.api_server import story_server

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"
KEYED = AccessRules(api_key="sesame", allowed_hosts=())


async def kind_of(client, accept, method="GET", path="/", **headers):
    """Status, content type and length of what is sent."""
    headers |= {} if accept is None else {"Accept": accept}
    async with client.http.request(method, client.url + path, headers=headers) as response:
        return response.status, response.content_type, response.headers["Vary"]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (BROWSER, "text/html"),
        ("application/json, TEXT/HTML;q=0.5", "text/html"),
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html-sandboxed", "application/json"),
    ],
)
async def test_browsers_get_the_page_and_programs_get_json(accept, kind):
    async with story_server() as (client, _):
        assert await kind_of(client, accept) == (200, kind, "Accept")
        assert await kind_of(client, accept, "HEAD") == (200, kind, "Accept")


async def test_the_page_needs_no_key_and_opens_nothing_else():
    async with story_server(access=KEYED) as (client, _):
        assert (await kind_of(client, BROWSER))[:2] == (200, "text/html")
        for path in ("/v1/models", "/metrics", "//", "/?", "/index.html"):
            async with client.http.get(client.url + path, headers={"Accept": BROWSER}) as response:
                text = await response.text()
                assert (response.status == 200) == (path == "/?"), path
                assert "stories260k" not in text
        async with client.http.get(client.url + "/") as response:
            assert response.status == 401
        async with client.http.post(client.url + "/", headers={"Accept": BROWSER}) as response:
            assert response.status == 401


async def test_foreign_names_and_pages_do_not_get_it():
    async with story_server(access=KEYED) as (client, _):
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            headers["Accept"] = BROWSER
            async with client.http.get(client.url + "/", headers=headers) as response:
                assert response.status == 403


async def test_a_browser_is_told_to_run_nothing_else_and_to_speak_to_nobody_else():
    async with (
        story_server() as (client, _),
        client.http.get(client.url + "/", headers={"Accept": BROWSER}) as response,
    ):
        policy = dict(
            part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; ")
        )
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in str(policy)


async def test_the_document_names_no_other_address_and_puts_in_no_html():
    async with (
        story_server() as (client, _),
        client.http.get(client.url + "/", headers={"Accept": BROWSER}) as response,
    ):
        document = await response.text()
    # The names of SVG's language are no addresses.
    addresses = set(re.findall(r"https?://[\w./-]+", document))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert re.findall(r"(?:src|href|action)=\"(?!data:)[^\"]*", document) == []
    makers_of_html = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function"
    assert re.findall(makers_of_html, document) == []
    assert re.findall(r"(?:local|session)Storage|indexedDB|document\.cookie", document) == []
