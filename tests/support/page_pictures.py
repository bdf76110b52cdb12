"""Makes the pictures of the page in docs/images, from a device that answers.

`HAT_DEVICE_SAMPLING_DEFAULTS=temperature=0 hat up MODEL`, and then
`python -m tests.support.page_pictures http://127.0.0.1:8000/`. Look at them before they are kept.
"""

import asyncio
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.support.browser import opened_page

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"
QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about rain.",
    "Say this sentence three times: The quick brown fox jumps over the lazy dog.",
)
SIZES = {"page": {"width": 1240, "height": 800}, "page-phone": {"width": 380, "height": 780}}
LOOK_S = 3.0
"""The link is asked every two seconds."""


async def take_pictures(url: str) -> None:
    """Each size in each colour scheme; on the narrow one the panel is opened."""
    for scheme in ("light", "dark"):
        for name, viewport in SIZES.items():
            look = {"color_scheme": scheme, "viewport": viewport, "device_scale_factor": 2}
            async with opened_page(url, **look) as opened:
                page = opened.page
                for number, question in enumerate(QUESTIONS):
                    await page.get_by_label("Your message").fill(question)
                    await page.keyboard.press("Enter")
                    await page.locator(".assistant .caption").nth(number).wait_for(timeout=300_000)
                await asyncio.sleep(LOOK_S)
                if name == "page-phone":
                    await page.get_by_role("button", name="per second").click()
                picture = Image.open(BytesIO(await page.screenshot()))
            colours = picture.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE)
            colours.save(FOLDER / f"{name}-{scheme}.png", optimize=True)


if __name__ == "__main__":
    asyncio.run(take_pictures(sys.argv[1]))
