import asyncio

import pytest

from device_runtime.generation.request import CloudUnavailableError, OverloadedError, SamplingParams
from tests.support.event_loop import on_sockets_and_in_memory, settle, until
from tests.support.fake_cloud import FakeCloud, fault
from tests.support.fake_model import VOCAB_SIZE, FakeDeviceEngine
from tests.support.fake_runtime import bench, expected, request
from tests.support.memory_link import CALL_S
from wire.codec import STATES
from wire.errors import FaultCode
from wire.messages import Want

pytestmark = pytest.mark.event_loop("virtual")

PROMPTS = [[(7 * i * i + 3 * j) % VOCAB_SIZE for j in range(1 + 3 * i)] for i in range(16)]

GREEDY = SamplingParams(temperature=0.0, seed=1)
SAMPLED = SamplingParams(seed=5)
REPETITIVE = SamplingParams(seed=7, logit_bias={3: 30.0, 5: 31.0})
"""Two tokens alternate at random: prompt lookup always drafts, and is right half of the time."""


@pytest.mark.parametrize("num_output_layers", [0, 2])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 0])
@pytest.mark.parametrize("drafter", ["none", "ngram"])
async def test_the_output_is_the_whole_models(drafter, chunk_tokens, num_output_layers):
    engine = FakeDeviceEngine(num_output_layers)
    async with bench(engine=engine, drafter=drafter, chunk_tokens=chunk_tokens) as it:
        for prompt in PROMPTS[::3]:
            for sampling in (GREEDY, SAMPLED, REPETITIVE):
                wanted = request(prompt, sampling=sampling)
                assert await it.ids(wanted) == expected(wanted, num_output_layers)
        await it.freed()


@on_sockets_and_in_memory
async def test_sixteen_streams_at_once_give_the_same_text_as_one_at_a_time():
    async with bench(max_num_seqs=16, chunk_tokens=3) as it:
        requests = [request(prompt, 40) for prompt in PROMPTS]
        together = await asyncio.gather(*(it.ids(wanted) for wanted in requests))
        assert together == [expected(wanted) for wanted in requests]
        await it.freed()


async def test_two_requests_without_a_seed_differ():
    async with bench() as it:
        unseeded = request([1, 2], 60, sampling=SamplingParams(temperature=2.0))
        assert await it.ids(unseeded) != await it.ids(unseeded)


async def test_more_generations_than_may_run_wait_their_turn_and_more_than_may_wait_are_refused():
    async with bench(max_num_seqs=2, max_queue=3) as it:
        it.cloud.going.clear()
        requests = [request(prompt) for prompt in PROMPTS[:5]]
        running = [asyncio.ensure_future(it.ids(wanted)) for wanted in requests]
        await settle()
        load = it.runtime.admission
        assert (load.num_running, load.num_waiting) == (2, 3)
        with pytest.raises(OverloadedError, match="2 generations are running and 3"):
            await it.ids(requests[0])
        running[3].cancel()
        await settle()
        assert it.runtime.admission.num_waiting == 2
        it.cloud.going.set()
        for index in (0, 1, 2, 4):
            assert await running[index] == expected(requests[index])
        await it.freed()


@pytest.mark.parametrize("num_calls", [0, 0.5, 1, 1.5, 2.5, 5, 8, 13.5, 21, 34, 55.5, 89])
async def test_a_generation_cancelled_at_any_moment_frees_both_sides(num_calls):
    async with bench(chunk_tokens=2) as it:
        task = asyncio.ensure_future(it.ids(request(PROMPTS[9], 60)))
        await asyncio.sleep(num_calls * CALL_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await it.freed()
        wanted = request(PROMPTS[2])
        assert await it.ids(wanted) == expected(wanted)


@pytest.mark.parametrize("num_emissions", [0, 1, 4])
async def test_a_stream_closed_early_frees_both_sides(num_emissions):
    async with bench() as it:
        generation = it.runtime.generate(request(PROMPTS[5], 60), "test")
        for _ in range(num_emissions):
            await anext(generation)
        await generation.aclose()
        await generation.aclose()
        await it.freed()


async def test_a_prompt_cancelled_while_the_cloud_is_stuck_frees_both_sides():
    async with bench(FakeCloud(window_tokens=8, max_frame_tokens=4), chunk_tokens=2) as it:
        task = asyncio.ensure_future(it.ids(request(PROMPTS[9])))
        await until(lambda: len(it.cloud.frames) >= 2)
        it.cloud.going.clear()
        await settle()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        it.cloud.going.set()
        await it.freed()


async def test_a_full_cloud_is_told_with_its_retry_time():
    async with bench(FakeCloud(refuse_open=[fault(FaultCode.CAPACITY, 4.0)])) as it:
        with pytest.raises(CloudUnavailableError, match="CAPACITY") as caught:
            await it.ids(request([1, 2]))
        assert caught.value.retry_after_s == 4.0
        assert await it.ids(request([1, 2])) == expected(request([1, 2]))
        await it.freed()


async def test_a_session_the_cloud_ends_in_mid_stream_is_an_error_for_that_stream_alone():
    async with bench() as it:
        stream = it.runtime.generate(request(PROMPTS[4], 60), "test")
        await anext(stream)
        it.cloud.refuse_states = fault(FaultCode.BAD_FRAME, 0.0, "not finite")
        with pytest.raises(CloudUnavailableError, match="BAD_FRAME: not finite"):
            async for _ in stream:
                pass
        it.cloud.refuse_states = None
        assert it.runtime.ready() is None
        assert await it.ids(request([1, 2])) == expected(request([1, 2]))
        await it.freed()


@pytest.mark.parametrize("num_frames", [1, 2, 3, 7])
async def test_without_patience_a_lost_cloud_ends_the_streams_and_serves_later_ones(num_frames):
    async with bench(chunk_tokens=4, reconnect_timeout_s=0.0) as it:
        it.cloud.vanish_after_frames = num_frames
        streams = [it.ids(request(prompt, 60)) for prompt in PROMPTS[5:9]]
        results = await asyncio.gather(*streams, return_exceptions=True)
        assert any(isinstance(result, CloudUnavailableError) for result in results)
        for result, prompt in zip(results, PROMPTS[5:9], strict=True):
            if isinstance(result, Exception):
                assert isinstance(result, CloudUnavailableError)
                assert "lost the cloud" in result.reason
            else:
                assert result == expected(request(prompt, 60))
        await until(lambda: it.runtime.ready() is None)
        assert await it.ids(request([1, 2])) == expected(request([1, 2]))
        await it.freed()


async def test_without_a_cloud_a_request_fails_at_once_and_the_reason_is_told():
    async with bench() as it:
        await it.cloud.stop()
        await until(lambda: "cannot reach" in (it.runtime.ready() or ""))
        with pytest.raises(CloudUnavailableError, match="cannot reach"):
            await it.ids(request([1, 2]))


async def test_a_cloud_with_a_shorter_context_shortens_the_devices():
    async with bench(FakeCloud(max_context_tokens=40), max_model_len=50) as it:
        assert it.runtime.max_context_tokens == 40
        assert len(await it.ids(request([1] * 30, 100))) == 10
        with pytest.raises(ValueError, match="1 to 39 tokens, got 40"):
            await it.ids(request([1] * 40))


async def test_a_prompt_outside_the_vocabulary_is_refused():
    async with bench() as it:
        for token in (-1, VOCAB_SIZE):
            with pytest.raises(ValueError, match=r"outside \[0, 16\)"):
                await it.ids(request([1, token]))
        await it.freed()


async def test_an_engine_failure_ends_the_generation_and_frees_both_sides():
    class Failing(FakeDeviceEngine):
        def logits(self, sequence, deep, position, num_logits):
            raise RuntimeError("no logits today")

    async with bench(engine=Failing()) as it:
        with pytest.raises(RuntimeError, match="no logits today"):
            await it.ids(request([1, 2]))
        await it.freed()


async def test_stats_count_what_happened():
    async with bench(chunk_tokens=4, draft_tokens=3) as it:
        wanted = request(PROMPTS[6], 60, sampling=REPETITIVE)
        generation = it.runtime.generate(wanted, "test")
        emissions = [emission async for emission in generation]
        stats = generation.stats
        assert stats.num_chunks == -(-len(PROMPTS[6]) // 4)
        assert stats.num_output_tokens == sum(len(e.tokens) for e in emissions) == 60
        assert stats.num_rounds == len(emissions) - 1
        assert stats.num_output_tokens == 1 + stats.num_rounds + stats.num_accepted_tokens
        verified = [f for f in it.cloud.frames if f.want is Want.ALL]
        assert stats.num_drafted_tokens == sum(f.num_rows - 1 for f in verified)
        assert 0 < stats.num_accepted_tokens < stats.num_drafted_tokens
        assert stats.drafted_by_position[0] >= stats.drafted_by_position[-1] > 0
        assert stats.bytes_up == sum(len(f.payload) + STATES.size for f in it.cloud.frames)
        assert stats.bytes_down > stats.bytes_up / 2
        assert 0 < stats.first_token_s <= stats.total_s
        assert stats.cloud_compute_s == pytest.approx(0.002 * len(it.cloud.frames))


async def test_a_links_delay_is_measured_over_drafts_and_never_over_a_prompts_chunks():
    async with bench(chunk_tokens=5) as it:
        for num_tokens, is_measured in ((1, False), (2, True)):
            generation = it.runtime.generate(request(PROMPTS[6], num_tokens), "test")
            assert len([emission async for emission in generation]) > 0
            assert generation.stats.num_chunks > 1
            assert (generation.stats.link_delay_s is not None) is is_measured
