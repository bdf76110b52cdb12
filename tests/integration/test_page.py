"""The page at `/` in a real Chromium: chatting, what it shows, whom it asks, and who can use it."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from device_runtime.api.service import AccessRules
from device_runtime.generation.request import CloudUnavailableError
from device_runtime.link.link import LinkStatus
from tests.support.api_server import EOS, STORY, encoded, story_generator, story_server
from tests.support.browser import opened_page, skip_without_browser
from tests.support.fake_generator import FakeGenerator, always

skip_without_browser()

NOT_MEASURED = "\N{EN DASH}"
OWN = "document.title='owned'"
HOSTILE = f""" <img src=x onerror="{OWN}"><script>{OWN}</script> & done"""
ANYONE = AccessRules()
PHONE = {"width": 380, "height": 720}


@asynccontextmanager
async def chatting(generator=None, access=ANYONE, **context):
    """The page over a fake generator, and the generator."""
    async with (
        story_server(generator, access=access) as (client, used),
        opened_page(client.url + "/", **context) as opened,
    ):
        yield opened, used
        assert opened.foreign_requests(client.url) == []


async def send(page, text):
    await page.get_by_label("Your message").fill(text)
    await page.keyboard.press("Enter")


async def until_answered(page):
    await page.locator(".assistant .caption").last.wait_for()


def answer_of(page):
    return page.locator(".assistant .words").last


async def test_an_answer_streams_and_says_how_it_was_made():
    generator = story_generator(tokens_per_round=4, num_drafted=4)
    async with chatting(generator) as (opened, _):
        page = opened.page
        await send(page, "Once upon a time,")
        await until_answered(page)
        assert await answer_of(page).text_content() == STORY.strip()
        origins = await page.locator(".assistant .words span").evaluate_all(
            "parts => parts.map((part) => part.className)"
        )
        assert origins[:8] == ["accepted"] * 3 + ["recovered"] + ["accepted"] * 3 + ["recovered"]
        assert await page.locator("#rounds").text_content() == "2, 3.50 tokens each"
        assert await page.locator("#first").text_content() == "500 ms"
        assert (
            await page.locator("#drafts").text_content() == "5 of 8 drafted tokens accepted, 63 %"
        )
        assert await page.locator("#bytes").text_content() == "3.00 kB, 2.00 kB"
        lanes = await page.get_by_role("img", name="Busy within 2.00 s").get_attribute("aria-label")
        assert lanes.endswith("device 600 ms, uplink 103 ms, cloud 750 ms, downlink 47 ms")
        await page.get_by_text("Last rounds").click()
        await page.get_by_role("img", name="Busy within 1.62 s").wait_for()
        assert await page.locator("#model").text_content() == "stories260k"
        assert opened.complaints == []


async def test_the_link_is_watched_and_a_lost_cloud_is_named():
    async with chatting() as (opened, generator):
        page = opened.page
        await page.get_by_text("connected · 20 ms").wait_for()
        assert await page.locator("#up").text_content() == "8.00 Mbit/s"
        assert await page.locator("#down").text_content() == NOT_MEASURED
        generator.status = LinkStatus(False)
        generator.not_ready = "connecting to the cloud at x:1"
        await page.get_by_text("no cloud", exact=True).wait_for()
        assert await page.locator("#state").text_content() == "Connecting to the cloud at x:1."


async def test_what_a_model_says_is_text_and_never_html():
    generator = FakeGenerator(always([*encoded(HOSTILE), EOS]), num_drafted=2, tokens_per_round=3)
    async with chatting(generator) as (opened, _):
        page = opened.page
        await send(page, HOSTILE)
        await until_answered(page)
        assert await answer_of(page).text_content() == HOSTILE.strip()
        assert await page.locator(".user .words").text_content() == HOSTILE.strip()
        assert await page.locator("#turns img, #turns script, #spoken img").count() == 0
        assert await page.title() == "stories260k · hat"
        assert opened.complaints == []


async def test_a_script_that_got_in_all_the_same_would_not_run_nor_reach_anybody():
    async with chatting() as (opened, _):
        page = opened.page
        refused = await page.evaluate(
            """async () => {
                const found = [];
                const attempt = async (work) => {
                    try { await work(); } catch (error) { found.push(error.name); }
                };
                const script = document.createElement("script");
                await attempt(() => document.body.insertAdjacentHTML("beforeend", "<b>b</b>"));
                await attempt(() => { script.textContent = "document.title = 'owned'"; });
                await attempt(() => fetch("http://127.0.0.2:9/"));
                document.body.append(script);
                return found;
            }"""
        )
        assert refused == ["TypeError", "TypeError", "TypeError"]
        assert await page.title() == "stories260k · hat"
        opened.requests[:] = [each for each in opened.requests if "127.0.0.2" not in each]


async def test_an_answer_is_stopped_by_escape_and_the_conversation_goes_on():
    gate = asyncio.Event()
    async with chatting(story_generator(gates={4: gate})) as (opened, generator):
        page = opened.page
        await send(page, "Tell me")
        await page.get_by_text("there was", exact=False).last.wait_for()
        await page.keyboard.press("Escape")
        await until_answered(page)
        assert "stopped" in await page.locator(".caption").text_content()
        async with asyncio.timeout(10):
            await generator.until_all_closed()
        gate.set()
        await send(page, "And then?")
        await page.locator(".assistant .caption").nth(1).wait_for()
        assert await page.locator(".turn").count() == 4
        prompt = generator.requests[1].prompt_ids
        assert len(prompt) > len(generator.requests[0].prompt_ids) + 4


async def test_a_new_conversation_forgets_the_old_one_and_stops_its_answer():
    gate = asyncio.Event()
    async with chatting(story_generator(gates={4: gate})) as (opened, generator):
        page = opened.page
        await send(page, "Tell me")
        await page.get_by_text("there was", exact=False).last.wait_for()
        await page.get_by_role("button", name="New conversation").click()
        async with asyncio.timeout(10):
            await generator.until_all_closed()
        assert await page.locator(".turn").count() == 0
        gate.set()
        await send(page, "Tell me")
        await until_answered(page)
        assert list(generator.requests[1].prompt_ids) == list(generator.requests[0].prompt_ids)


async def test_a_question_that_fails_comes_back_with_the_reason():
    errors = {0: RuntimeError("broken")}
    async with chatting(story_generator(errors=errors)) as (opened, _):
        page = opened.page
        await send(page, "Tell me")
        await page.get_by_role("alert").wait_for()
        assert await page.get_by_label("Your message").input_value() == "Tell me"
        errors.clear()
        await page.keyboard.press("Enter")
        await until_answered(page)
        assert await page.locator(".turn").count() == 2


async def test_an_answer_that_breaks_off_is_kept_with_the_reason_and_gone_on_from():
    errors = {4: CloudUnavailableError("no cloud came back")}
    async with chatting(story_generator(errors=errors)) as (opened, generator):
        page = opened.page
        await send(page, "Tell me")
        await page.get_by_text("No cloud came back.").wait_for()
        assert (await answer_of(page).text_content()).startswith("there was")
        errors.clear()
        await send(page, "And then?")
        await page.locator(".assistant .caption").nth(1).wait_for()
        assert await page.get_by_role("alert").count() == 0
        assert len(generator.requests[1].prompt_ids) > len(generator.requests[0].prompt_ids) + 4


async def test_a_device_that_is_gone_is_named_and_the_question_stays():
    async with AsyncExitStack() as device:
        client, _ = await device.enter_async_context(story_server())
        async with opened_page(client.url + "/") as opened:
            page = opened.page
            await page.get_by_text("connected", exact=False).first.wait_for()
            await device.aclose()
            await page.get_by_text("The device does not answer.", exact=True).wait_for()
            await send(page, "Are you there?")
            await page.get_by_text("Is it still running?").wait_for()
            assert await page.get_by_label("Your message").input_value() == "Are you there?"


async def test_a_key_is_asked_for_and_kept_nowhere():
    async with chatting(access=AccessRules(api_key="sesame")) as (opened, _):
        page = opened.page
        field = page.get_by_role("textbox", name="API key")
        await field.fill("wrong")
        await page.keyboard.press("Enter")
        await page.get_by_text("That key was refused").wait_for()
        await field.fill("sesame")
        await page.keyboard.press("Enter")
        await page.get_by_text("connected", exact=False).first.wait_for()
        await send(page, "Once")
        await until_answered(page)
        kept = await page.evaluate(
            """async () => [localStorage.length, sessionStorage.length, document.cookie,
                (await indexedDB.databases()).length, (await caches?.keys() ?? []).length,
                JSON.stringify(history.state), location.href.includes("sesame")]"""
        )
        assert kept == [0, 0, "", 0, 0, "null", False]
        assert not any("sesame" in each for each in opened.requests)
        await page.reload()
        await field.wait_for()
        assert await page.locator(".turn").count() == 0


async def test_everything_can_be_reached_and_is_named_without_a_mouse():
    async with chatting() as (opened, _):
        page = opened.page
        await page.get_by_text("connected", exact=False).first.wait_for()
        assert await focused(page) == "question"
        await send(page, "Once")
        await until_answered(page)
        assert await focused(page) == "question"
        reached = []
        for _ in range(12):
            await page.keyboard.press("Tab")
            reached.append(await focused(page))
        assert {"new", "conversation", "send", "colours", "question"} <= set(reached)
        nameless = await page.evaluate(
            """() => [...document.querySelectorAll("button, input, textarea, [role=img]")]
                .filter((part) => part.checkVisibility() && !part.textContent.trim())
                .filter((part) => !(part.ariaLabel || part.labels?.length))
                .map((part) => part.outerHTML)"""
        )
        assert nameless == []


async def focused(page):
    return await page.evaluate("document.activeElement.id")


async def test_a_screen_reader_hears_sentences_and_the_end():
    async with chatting(story_generator()) as (opened, _):
        page = opened.page
        await send(page, "Once")
        await until_answered(page)
        spoken = await page.locator("#spoken p").all_text_contents()
        assert spoken == [" there was a little dog.", " He was happy"]
        assert (await page.locator("#said").text_content()).startswith("Answer complete.")


@pytest.mark.parametrize("viewport", [PHONE, {"width": 320, "height": 568}])
async def test_a_narrow_screen_shows_everything_without_scrolling_sideways(viewport):
    wide = FakeGenerator(always(encoded(" " + "m" * 400)))
    async with chatting(wide, viewport=viewport) as (opened, _):
        page = opened.page
        await send(page, "w" * 300)
        await page.locator(".words").nth(1).get_by_text("mmm", exact=False).first.wait_for()
        panel = page.get_by_role("complementary")
        assert not await panel.is_visible()
        button = page.get_by_role("button", name="per second")
        await button.click()
        assert await panel.is_visible()
        assert await button.get_attribute("aria-expanded") == "true"
        widths = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1]


CONTRAST = """() => {
    const channel = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = (colour) => {
        const [red, green, blue] = colour.match(/[\\d.]+/g).map((each) => channel(each / 255));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = (part) => {
        const colour = getComputedStyle(part).backgroundColor;
        const isClear = colour === "rgba(0, 0, 0, 0)" && part.parentElement;
        return isClear ? behind(part.parentElement) : colour;
    };
    const found = [];
    for (const part of document.querySelectorAll("p, b, span, dt, dd, li, h1, h2, button, label")) {
        const isRead = part.checkVisibility() && part.textContent.trim();
        if (!isRead || part.closest(":disabled")) continue;
        const both = [light(getComputedStyle(part).color), light(behind(part))].sort();
        const ratio = (both[1] + 0.05) / (both[0] + 0.05);
        if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${part.outerHTML.slice(0, 80)}`);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_both_colour_schemes_can_be_read(scheme):
    generator = story_generator(tokens_per_round=3, num_drafted=4)
    async with chatting(generator, color_scheme=scheme) as (opened, _):
        page = opened.page
        await send(page, "Once")
        await until_answered(page)
        assert await page.evaluate(CONTRAST) == []
        paper = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(22, 21, 19)") == (scheme == "dark")
