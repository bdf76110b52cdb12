"""When the cloud has another model, its bundle is fetched once, and taken up where that helps."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from device_runtime.fetching.fetching import Fetcher
from device_runtime.fetching.listing import FetchError
from device_runtime.fetching.updates import Updates
from device_runtime.link.link import Link
from tests.support.event_loop import until
from tests.support.fake_cloud import FakeCloud, fault, running
from wire.errors import FaultCode

pytestmark = pytest.mark.event_loop("virtual")

OLD, NEW = Path("old"), Path("new")


class MadeUpLink:
    """Up, or refused for its model."""

    def __init__(self) -> None:
        self.mismatched = asyncio.Event()
        self.status = SimpleNamespace(reason="the cloud holds another model")
        self._connected = asyncio.Event()

    def refuse(self) -> None:
        self._connected.clear()
        self.mismatched.set()

    def up(self) -> None:
        self.mismatched.clear()
        self._connected.set()

    async def connected(self) -> None:
        await self._connected.wait()


@dataclass
class MadeUpFetcher:
    """Gives what the test says, after a while."""

    found: list[Path | FetchError]
    takes_s: float = 5.0
    asked_s: list[float] = field(default_factory=list)

    async def fetch(self) -> Path:
        loop = asyncio.get_running_loop()
        self.asked_s.append(loop.time())
        await asyncio.sleep(self.takes_s)
        found = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(found, FetchError):
            raise found
        return found


def watching(fetcher: MadeUpFetcher) -> tuple[Updates, MadeUpLink, Any]:
    link = MadeUpLink()
    updates = Updates(cast(Fetcher, fetcher))
    return updates, link, lambda: updates.newer(cast(Link, link), OLD)


async def test_a_refusal_leads_to_the_bundle_that_the_cloud_serves() -> None:
    fetcher = MadeUpFetcher([NEW])
    _, link, newer = watching(fetcher)
    link.up()
    task = asyncio.create_task(newer())
    await asyncio.sleep(1000)
    assert fetcher.asked_s == []
    link.refuse()
    assert await task == NEW
    assert len(fetcher.asked_s) == 1


async def test_answers_that_go_on_are_left_alone_until_the_cloud_refuses_again() -> None:
    """Behind a balancer whose clouds are changed one by one, the next try may find the old one."""
    _, link, newer = watching(MadeUpFetcher([NEW]))
    link.refuse()
    task = asyncio.create_task(newer())
    await asyncio.sleep(1)
    link.up()
    await asyncio.sleep(1000)
    assert not task.done()
    link.refuse()
    assert await task == NEW


@pytest.mark.parametrize("found", [OLD, FetchError("it serves none")])
async def test_a_cloud_that_has_nothing_else_is_asked_again_now_and_then(
    found: Path | FetchError, caplog: pytest.LogCaptureFixture
) -> None:
    fetcher = MadeUpFetcher([found, found, NEW])
    _, link, newer = watching(fetcher)
    link.refuse()
    assert await newer() == NEW
    pauses = [b - a for a, b in zip(fetcher.asked_s, fetcher.asked_s[1:], strict=False)]
    assert pauses == pytest.approx([65.0, 65.0])
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2, "one line for the refusal, one for what came of it"


async def test_a_bundle_that_is_refused_as_well_is_not_followed_by_another_at_once() -> None:
    """A cloud could have a device fetch for ever."""
    fetcher = MadeUpFetcher([NEW])
    _, link, newer = watching(fetcher)
    link.refuse()
    await newer()
    task = asyncio.create_task(newer())
    await asyncio.sleep(500)
    assert len(fetcher.asked_s) == 1
    await asyncio.sleep(200)
    assert len(fetcher.asked_s) == 2
    await task


async def test_a_bundle_that_was_taken_up_and_worked_may_be_followed_by_another() -> None:
    fetcher = MadeUpFetcher([NEW])
    _, link, newer = watching(fetcher)
    link.refuse()
    await newer()
    task = asyncio.create_task(newer())
    link.up()
    await asyncio.sleep(1)
    link.refuse()
    assert await task == NEW
    assert len(fetcher.asked_s) == 2


@pytest.mark.parametrize(
    ("code", "is_other"),
    [
        (FaultCode.FINGERPRINT_MISMATCH, True),
        (FaultCode.SHAPE_MISMATCH, True),
        (FaultCode.BAD_CREDENTIAL, False),
        (FaultCode.UNSUPPORTED_VERSION, False),
        (FaultCode.DRAINING, False),
    ],
)
async def test_a_link_knows_when_it_is_refused_for_its_model(
    code: FaultCode, is_other: bool
) -> None:
    cloud = FakeCloud(refuse_connection=fault(code))
    async with running(cloud) as link:
        await until(lambda: not (link.status.reason or "").startswith("connecting"))
        assert link.mismatched.is_set() is is_other
        cloud.refuse_connection = None
        await link.connected()
        assert not link.mismatched.is_set()
