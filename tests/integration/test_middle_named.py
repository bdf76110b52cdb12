"""Which fingerprint a device names: the middle's, or the whole model's to a cloud of before."""

import asyncio
from dataclasses import replace

import pytest

from tests.support.event_loop import until
from tests.support.fake_cloud import FINGERPRINT, MODEL, FakeCloud, fault, running
from wire.errors import FaultCode
from wire.messages import Ability

pytestmark = pytest.mark.event_loop("virtual")

MIDDLE = b"m" * 32
ENDS = replace(MODEL, fingerprint=b"e" * 32, middle_fingerprint=MIDDLE)
"""Other ends over the fake cloud's middle."""
WHOLE = replace(MODEL, middle_fingerprint=MIDDLE)


def _named(cloud: FakeCloud) -> list[bytes]:
    return [hello.fingerprint for hello in cloud.hellos]


async def test_other_ends_are_let_in_by_their_middle() -> None:
    cloud = FakeCloud(middle_fingerprint=MIDDLE)
    async with running(cloud, model=ENDS) as link:
        await link.connected()
    assert _named(cloud) == [MIDDLE]


async def test_a_cloud_of_an_earlier_release_is_asked_by_the_whole_model_at_once() -> None:
    cloud = FakeCloud()
    async with running(cloud, model=WHOLE) as link:
        await link.connected()
        assert _named(cloud) == [MIDDLE, FINGERPRINT]
        assert not cloud.hellos[1].codecs >> Ability.MIDDLE & 1
        cloud.vanish()
        await until(lambda: len(cloud.hellos) == 3)
        await link.connected()
    assert _named(cloud)[2:] == [FINGERPRINT], "what worked is asked first"


async def test_a_cloud_that_was_updated_meanwhile_may_know_the_middle_alone() -> None:
    cloud = FakeCloud()
    async with running(cloud, model=WHOLE) as link:
        await link.connected()
        cloud.fingerprint, cloud.middle_fingerprint = b"o" * 32, MIDDLE
        cloud.vanish()
        await until(lambda: len(cloud.hellos) == 4)
        await link.connected()
    assert _named(cloud)[2:] == [FINGERPRINT, MIDDLE]


async def test_a_cloud_of_another_middle_is_told_of_as_such_and_asked_seldom() -> None:
    cloud = FakeCloud(middle_fingerprint=b"o" * 32)
    async with running(cloud, model=ENDS) as link:
        await until(lambda: not (link.status.reason or "").startswith("connecting"))
        assert "expected middle layers with fingerprint" in (link.status.reason or "")
        assert "hat split --middle-of" in (link.status.reason or "")
        assert _named(cloud) == [MIDDLE, ENDS.fingerprint]
        assert link.status.retry_after_s == link.patience.refused_retry_s
        await asyncio.sleep(link.patience.refused_retry_s + 1)
        assert _named(cloud)[2:] == [MIDDLE, ENDS.fingerprint]
        assert "expected middle layers" in (link.status.reason or "")


async def test_another_refusal_is_none_of_the_name() -> None:
    cloud = FakeCloud(refuse_connection=fault(FaultCode.BAD_CREDENTIAL))
    async with running(cloud, model=WHOLE) as link:
        await until(lambda: not (link.status.reason or "").startswith("connecting"))
        assert _named(cloud) == [MIDDLE]


async def test_a_device_that_knows_no_middle_names_the_whole_model() -> None:
    cloud = FakeCloud(middle_fingerprint=MIDDLE)
    async with running(cloud) as link:
        async with asyncio.timeout(5):
            await link.connected()
    assert _named(cloud) == [FINGERPRINT]
