"""A kept conversation outlives the device's program: its next run sends only what is new."""

import asyncio
import random
from contextlib import asynccontextmanager, suppress

import pytest

from adapters.install import install_adapter
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.link.link import Link
from device_runtime.runtime import place as place_module
from device_runtime.session.kept_text import Identity, KeptText
from process.errors import StartError
from tests.support.fake_cloud import FakeCloud
from tests.support.fake_model import FakeDeviceEngine
from tests.support.fake_runtime import KEEP_SOME, PROMPT, bench, expected, request
from tests.support.memory_cloud import MemoryCloud
from tests.support.reference import STORIES, story_prompts
from tests.support.stack import (
    GREEDY,
    cloud_config,
    connected_device,
    generate_with_stats,
    serve_cloud,
    split_for_serving,
)
from tests.support.stored_adapters import ADAPTER
from wire.codec import decode
from wire.messages import Close, Open, States

virtual = pytest.mark.event_loop("virtual")

REPETITIVE = SamplingParams(seed=7, logit_bias={3: 30.0, 5: 31.0})


class MemoryShelf:
    """A `Shelf` in memory that outlives runtimes, and notes what was there when rows went up."""

    identity = Identity(("here",))

    def __init__(self):
        self.records = {}
        self.unix_clock = asyncio.get_running_loop().time

    def load(self):
        now = self.unix_clock()
        usable = (kept for kept in self.records.values() if kept.is_usable(self.identity, now))
        return sorted(usable, key=lambda kept: kept.used_unix_s)

    def put(self, kept):
        assert isinstance(kept, KeptText)
        self.records[kept.key] = kept

    def drop(self, key):
        self.records.pop(key, None)

    async def take(self, key):
        await asyncio.sleep(0.001)
        self.drop(key)
        return True

    async def close(self):
        """All stays."""


async def answered(it, wanted):
    """An answer, which is the unsplit model's, and what it took."""
    generation = it.runtime.generate(wanted, "test")
    ids = [token.id async for emission in generation for token in emission.tokens]
    assert ids == expected(wanted, it.engine.num_output_layers)
    return ids, generation.stats


class LastingCloud(MemoryCloud):
    """Outlives its devices; each link has keys of its own."""

    num_links = 0

    def make_link(self, **changes):
        self.num_links += 1
        clock, draws = asyncio.get_running_loop().time, random.Random(self.num_links)
        return Link(FakeCloud().config(**changes), clock, draws, dial=self.network.dial)

    async def stop(self):
        """Not yet."""


@asynccontextmanager
async def run_of(cloud, shelf, **settings):
    """One life of the program."""
    settings.setdefault("drafter", "none")
    async with bench(cloud, kept=KEEP_SOME, shelf=shelf, **settings) as it:
        yield it


def sent(cloud, kind, num_before=0):
    messages = (decode(frame) for frame in cloud.network.up[num_before:])
    return [message for message in messages if isinstance(message, kind)]


@virtual
@pytest.mark.parametrize("num_new", [5, 60])
async def test_a_new_run_takes_up_what_the_old_one_left(num_new):
    """A short answer fits into the same session, a long one begins as a copy of it."""
    cloud, shelf = LastingCloud(), MemoryShelf()
    async with run_of(cloud, shelf) as it:
        answer, _ = await answered(it, request(PROMPT, 40))
    assert sent(cloud, Close) == [], "the cloud is to keep it"
    num_up = len(cloud.network.up)
    async with run_of(cloud, shelf) as it:
        other = (answer[10] + 1) % 16
        wanted = request([*PROMPT, *answer[:10], other, 9], num_new)
        _, stats = await answered(it, wanted)
        assert stats.num_reused_tokens == len(PROMPT) + 10
        assert sent(cloud, States, num_up)[0].position == len(PROMPT) + 10
        num_made_again = len(PROMPT) + 39
        assert it.engine.num_input_tokens == num_made_again + 2 + num_new - 1
        assert it.num_kept == len(shelf.records) == it.engine.num_open == 1


@virtual
async def test_while_nobody_asks_the_device_gets_ready_and_the_cloud_hears_nothing():
    cloud, shelf = LastingCloud(), MemoryShelf()
    async with run_of(cloud, shelf) as it:
        await answered(it, request(PROMPT, 5))
    num_up = len(cloud.network.up)
    async with run_of(cloud, shelf) as it:
        await asyncio.sleep(10.0)
        assert sent(cloud, Open, num_up) == []
        assert it.engine.num_input_tokens == len(PROMPT) + 4, "its own side is made ready"
        await asyncio.sleep(50.0)
        assert shelf.records == {}, "the cloud need not have it any more"
        _, stats = await answered(it, request([*PROMPT, 1], 5))
        assert stats.num_reused_tokens == 0


@virtual
async def test_who_asks_does_not_wait_until_all_that_was_left_is_ready(monkeypatch):
    monkeypatch.setattr(place_module, "_MADE_AT_ONCE", 1)
    cloud, shelf = LastingCloud(), MemoryShelf()
    async with run_of(cloud, shelf) as it:
        await answered(it, request(PROMPT, 70))
    async with run_of(cloud, shelf) as it:
        await answered(it, request([9, 9, 9], 3))
        assert 0 < it.engine.num_input_tokens < 20
        await asyncio.sleep(10.0)
        assert it.engine.num_input_tokens == 5 + len(PROMPT) + 69


@virtual
async def test_a_text_longer_than_the_context_is_now_is_given_up():
    cloud, shelf = LastingCloud(), MemoryShelf()
    async with run_of(cloud, shelf) as it:
        await answered(it, request(PROMPT, 40))
    engine = FakeDeviceEngine()
    engine.max_context_tokens = 40
    async with run_of(cloud, shelf, engine=engine) as it:
        assert shelf.records == {}
        assert it.num_kept == 0
        _, stats = await answered(it, request([*PROMPT, 1], 5))
        assert stats.num_reused_tokens == 0


@virtual
async def test_a_cloud_that_was_exchanged_gets_the_whole_prompt():
    shelf = MemoryShelf()
    async with run_of(LastingCloud(), shelf) as it:
        await answered(it, request(PROMPT, 5))
    async with run_of(LastingCloud(), shelf) as it:
        _, stats = await answered(it, request([*PROMPT, 1], 5))
        assert stats.num_reused_tokens == 0
        assert it.engine.num_open == it.num_kept == len(shelf.records) == 1


@virtual
async def test_what_the_cloud_has_lost_is_not_computed_to_the_end(monkeypatch):
    monkeypatch.setattr(place_module, "_MADE_AT_ONCE", 2)
    shelf, engine = MemoryShelf(), FakeDeviceEngine()
    async with run_of(LastingCloud(), shelf) as it:
        await answered(it, request(PROMPT, 5))
    async with run_of(LastingCloud(), shelf, engine=engine) as it:
        await answered(it, request([*PROMPT, 1], 5))
        assert engine.num_input_tokens < 2 * len(PROMPT)


@virtual
async def test_two_at_once_that_continue_it_after_a_restart_send_what_is_new():
    cloud, shelf = LastingCloud(), MemoryShelf()
    async with run_of(cloud, shelf) as it:
        answer, _ = await answered(it, request(PROMPT, 70))
    num_up = len(cloud.network.up)
    async with run_of(cloud, shelf) as it:
        text = [*PROMPT, *answer[:65]]
        both = (answered(it, request([*text, n], 4)) for n in (1, 2))
        reused = [stats.num_reused_tokens for _, stats in await asyncio.gather(*both)]
        assert reused == [len(text), len(text)]
        assert sum(each.num_rows for each in sent(cloud, States, num_up)) == 2 * 4


@virtual
async def test_what_expires_while_it_is_made_ready_is_sent_again(monkeypatch):
    monkeypatch.setattr(place_module, "_MADE_AT_ONCE", 1)
    cloud, shelf = LastingCloud(), MemoryShelf()
    async with run_of(cloud, shelf) as it:
        await answered(it, request(PROMPT, 5))
    [left] = shelf.records.values()
    await asyncio.sleep(left.expires_unix_s - shelf.unix_clock() - 0.05)
    async with run_of(cloud, shelf) as it:
        assert it.num_kept == 1
        # Longer than what is kept has reserved, so it would begin as a copy.
        _, stats = await answered(it, request([*PROMPT, 1], 40))
        assert stats.num_reused_tokens == 0
        assert it.engine.num_open == it.num_kept == len(shelf.records) == 1


@virtual
async def test_a_request_that_is_not_to_be_stored_leaves_nothing_on_disk():
    cloud, shelf = LastingCloud(), MemoryShelf()
    async with run_of(cloud, shelf) as it:
        answer, _ = await answered(it, request(PROMPT, 10, is_remembered=False))
        assert shelf.records == {}
        # It is kept in memory as ever, and what continues it may be stored.
        _, stats = await answered(it, request([*PROMPT, *answer, 1], 10))
        assert stats.num_reused_tokens > len(PROMPT)
        assert len(shelf.records) == 1
        await answered(it, request([*PROMPT, *answer, 1, 2], 3, is_remembered=False))
        assert shelf.records == {}


@virtual
async def test_what_is_there_is_never_said_of_a_session_that_has_gone_on():
    """Else a run that was killed in the middle would leave another text than the cloud has."""
    cloud, shelf = LastingCloud(), MemoryShelf()
    num_rows_in_kept = 0

    def looked(is_up, frame):
        nonlocal num_rows_in_kept
        if is_up and isinstance(message := decode(frame), States):
            opened = [each for each in sent(cloud, Open) if each.session == message.session]
            assert opened[-1].key not in shelf.records
            num_rows_in_kept += message.position > 0
        return [frame]

    cloud.network.passes = looked
    for number in range(4):
        async with run_of(cloud, shelf) as it:
            text = [*PROMPT[: 20 - 3 * number], number]
            await answered(it, request(text, 12))
            await answered(it, request([*text, 1, 2], 3))
    assert num_rows_in_kept > 4


@virtual
@pytest.mark.parametrize("seed", range(12))
async def test_conversations_say_the_same_however_often_the_program_is_killed(seed):
    """Killed: nothing is said to the cloud, and what lies on disk then is what is left."""
    draws = random.Random(seed)
    cloud, shelf, text, num_reused = LastingCloud(), MemoryShelf(), PROMPT[:12], 0
    for _ in range(10):
        async with run_of(cloud, shelf, drafter=draws.choice(["ngram", "none"])) as it:
            for _ in range(draws.randint(1, 2)):
                wanted = request(text, draws.randint(3, 30), sampling=REPETITIVE)
                reading = asyncio.ensure_future(answered(it, wanted))
                await asyncio.wait({reading}, timeout=draws.choice([0.1, 0.3, 60.0, 60.0]))
                if not reading.done():
                    break
                answer, stats = reading.result()
                num_reused += stats.num_reused_tokens
                text = [*[*text, *answer][: draws.randint(8, 60)], draws.randrange(16)]
            left = dict(shelf.records)
            it.network.cut()
            it.network.fails = ConnectionRefusedError()
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        it.network.fails = None
        shelf.records = left
        await asyncio.sleep(draws.choice([0.0, 1.0, 10.0]))
    assert num_reused >= 12


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The story model with an adapter that is fed with deep rows, and with an output layer."""
    out = tmp_path_factory.mktemp("restart")
    split = {k: split_for_serving(STORIES, out / f"k{k}", 1, k) for k in (0, 1)}
    install_adapter(split[0], ADAPTER)
    return split


def turns():
    """What a conversation of five turns says beside its answers."""
    prompts = story_prompts(40)
    first = [token for prompt in prompts[:8] for token in prompt]
    return [first, *(prompt[:12] for prompt in prompts[8:12])]


async def conversation(bundle, cloud_url, settings, is_restarted):
    """Its answers, and the rows that each turn sent."""
    text, answers, num_sent = [], [], []
    said = turns()
    while said:
        async with connected_device(bundle, cloud_url, settings) as device:
            for turn in [said.pop(0)] if is_restarted else said[:]:
                text += turn
                wanted = GenerationRequest(list(text), 16, GREEDY)
                ids, stats = await generate_with_stats(device.runtime, wanted)
                answers.append(ids)
                num_sent.append(sum(chunk.num_tokens for chunk in stats.chunks))
                text += ids
            said = said if is_restarted else []
    return answers, num_sent


@pytest.mark.parametrize("drafter", ["adapter", "none"])
async def test_five_turns_with_a_restart_before_each_say_the_same_and_send_what_is_new(
    bundles, tmp_path, drafter
):
    folder = tmp_path / "kept"
    plain = {"drafter": drafter, "kept_sessions": 0}
    kept = {"drafter": drafter, "kept_sessions_folder": folder}
    async with serve_cloud(cloud_config(bundles[0])) as cloud:
        expected_answers, _ = await conversation(bundles[0], cloud.url, plain, False)
        answers, num_sent = await conversation(bundles[0], cloud.url, kept, True)
    assert answers == expected_answers
    first, *others = turns()
    assert num_sent[0] == len(first)
    # Of the answer before, the last token was never computed.
    assert num_sent[1:] == [len(turn) + 1 for turn in others]
    assert len(list(folder.glob("*.kept"))) == 1


async def test_what_was_made_of_rounded_rows_is_not_gone_on_from_once_they_are_exact(
    bundles, tmp_path
):
    exact = {"kept_sessions_folder": tmp_path / "kept", "drafter": "none"}
    rounded = exact | {"lossy_prompt": "int8"}
    prompt, *_ = turns()
    num_sent = []
    async with serve_cloud(cloud_config(bundles[0], {"allow_lossy_codecs": True})) as cloud:
        for settings in (rounded, rounded, exact):
            async with connected_device(bundles[0], cloud.url, settings) as device:
                wanted = GenerationRequest(prompt, 4, GREEDY, frozenset())
                _, stats = await generate_with_stats(device.runtime, wanted)
                num_sent.append(sum(chunk.num_tokens for chunk in stats.chunks))
    assert num_sent[0] == num_sent[2] == len(prompt)
    assert num_sent[1] < len(prompt) // 2


async def test_with_output_layers_nothing_is_kept_and_the_log_says_so(bundles, tmp_path, caplog):
    settings = {"kept_sessions_folder": tmp_path / "kept"}
    async with (
        serve_cloud(cloud_config(bundles[1])) as cloud,
        connected_device(bundles[1], cloud.url, settings) as device,
    ):
        assert "since output layers are on this device" in caplog.text
        assert not device.runtime.outlives_program
    assert not (tmp_path / "kept").exists()


async def test_a_folder_in_use_is_a_reason_not_to_start(bundles, tmp_path):
    settings = {"kept_sessions_folder": tmp_path}
    async with (
        serve_cloud(cloud_config(bundles[0])) as cloud,
        connected_device(bundles[0], cloud.url, settings),
    ):
        with pytest.raises(StartError, match="another device program"):
            async with connected_device(bundles[0], cloud.url, settings):
                pass
