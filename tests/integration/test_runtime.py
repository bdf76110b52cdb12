import asyncio
from dataclasses import replace

import pytest

from device_runtime.generation import (
    CloudUnavailableError,
    OverloadedError,
    SamplingParams,
)
from tests.support.event_loop import settle, until
from tests.support.fake_cloud import FakeCloud, fault
from tests.support.fake_model import VOCAB_SIZE, FakeDeviceEngine
from tests.support.fake_runtime import KEEP_SOME, bench, expected, request
from wire.codec import STATES
from wire.errors import FaultCode
from wire.messages import Want

PROMPTS = [[(7 * i * i + 3 * j) % VOCAB_SIZE for j in range(1 + 3 * i)] for i in range(16)]

GREEDY = SamplingParams(temperature=0.0, seed=1)
SAMPLED = SamplingParams(seed=5)
REPETITIVE = SamplingParams(seed=7, logit_bias={3: 30.0, 5: 31.0})
"""Two tokens alternate at random: prompt lookup always drafts, and is right half of the time."""


@pytest.mark.parametrize("num_output_layers", [0, 2])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 0])
@pytest.mark.parametrize("drafter", ["none", "ngram"])
def test_the_output_is_the_whole_models(drafter, chunk_tokens, num_output_layers):
    async def run():
        engine = FakeDeviceEngine(num_output_layers)
        async with bench(engine=engine, drafter=drafter, chunk_tokens=chunk_tokens) as it:
            for prompt in PROMPTS[::3]:
                for sampling in (GREEDY, SAMPLED, REPETITIVE):
                    wanted = request(prompt, sampling=sampling)
                    assert await it.ids(wanted) == expected(wanted, num_output_layers)
            await it.freed()

    asyncio.run(run())


def test_sixteen_streams_at_once_give_the_same_text_as_one_at_a_time():
    async def run():
        async with bench(max_num_seqs=16, chunk_tokens=3) as it:
            requests = [request(prompt, 40) for prompt in PROMPTS]
            together = await asyncio.gather(*(it.ids(wanted) for wanted in requests))
            assert together == [expected(wanted) for wanted in requests]
            await it.freed()

    asyncio.run(run())


def test_two_requests_without_a_seed_differ():
    async def run():
        async with bench() as it:
            unseeded = request([1, 2], 60, sampling=SamplingParams(temperature=2.0))
            assert await it.ids(unseeded) != await it.ids(unseeded)

    asyncio.run(run())


def test_more_generations_than_may_run_wait_their_turn_and_more_than_may_wait_are_refused():
    async def run():
        async with bench(max_num_seqs=2, max_queue=3) as it:
            it.cloud.going.clear()
            requests = [request(prompt) for prompt in PROMPTS[:5]]
            running = [asyncio.ensure_future(it.ids(wanted)) for wanted in requests]
            await settle()
            figures = it.runtime.figures()
            assert (figures.num_running, figures.num_waiting) == (2, 3)
            with pytest.raises(OverloadedError, match="2 generations are running and 3"):
                await it.ids(requests[0])
            running[3].cancel()
            await settle()
            assert it.runtime.figures().num_waiting == 2
            it.cloud.going.set()
            for index in (0, 1, 2, 4):
                assert await running[index] == expected(requests[index])
            await it.freed()

    asyncio.run(run())


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89])
def test_a_generation_cancelled_at_any_moment_frees_both_sides(num_steps):
    async def run():
        async with bench(chunk_tokens=2) as it:
            task = asyncio.ensure_future(it.ids(request(PROMPTS[9], 60)))
            for _ in range(num_steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await it.freed()
            wanted = request(PROMPTS[2])
            assert await it.ids(wanted) == expected(wanted)

    asyncio.run(run())


@pytest.mark.parametrize("num_emissions", [0, 1, 4])
def test_a_stream_closed_early_frees_both_sides(num_emissions):
    async def run():
        async with bench() as it:
            generation = it.runtime.generate(request(PROMPTS[5], 60), "test")
            for _ in range(num_emissions):
                await anext(generation)
            await generation.aclose()
            await generation.aclose()
            await it.freed()

    asyncio.run(run())


def test_a_prompt_cancelled_while_the_cloud_is_stuck_frees_both_sides():
    async def run():
        async with bench(FakeCloud(window_tokens=8, max_frame_tokens=4), chunk_tokens=2) as it:
            task = asyncio.ensure_future(it.ids(request(PROMPTS[9])))
            await until(lambda: len(it.cloud.frames) >= 2)
            it.cloud.going.clear()
            await settle()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            it.cloud.going.set()
            await it.freed()

    asyncio.run(run())


def test_a_full_cloud_is_told_with_its_retry_time():
    async def run():
        async with bench(FakeCloud(refuse_open=[fault(FaultCode.CAPACITY, 4.0)])) as it:
            with pytest.raises(CloudUnavailableError, match="CAPACITY") as caught:
                await it.ids(request([1, 2]))
            assert caught.value.retry_after_s == 4.0
            assert await it.ids(request([1, 2])) == expected(request([1, 2]))
            await it.freed()

    asyncio.run(run())


def test_a_session_the_cloud_ends_in_mid_stream_is_an_error_for_that_stream_alone():
    async def run():
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

    asyncio.run(run())


@pytest.mark.parametrize("num_frames", [1, 2, 3, 7])
def test_without_patience_a_lost_cloud_ends_the_streams_and_serves_later_ones(num_frames):
    async def run():
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

    asyncio.run(run())


def test_without_a_cloud_a_request_fails_at_once_and_the_reason_is_told():
    async def run():
        async with bench() as it:
            await it.cloud.stop()
            await until(lambda: "cannot reach" in (it.runtime.ready() or ""))
            with pytest.raises(CloudUnavailableError, match="cannot reach"):
                await it.ids(request([1, 2]))

    asyncio.run(run())


def test_a_cloud_with_a_shorter_context_shortens_the_devices():
    async def run():
        async with bench(FakeCloud(max_context_tokens=40), max_model_len=50) as it:
            assert it.runtime.max_context_tokens == 40
            assert len(await it.ids(request([1] * 30, 100))) == 10
            with pytest.raises(ValueError, match="1 to 39 tokens, got 40"):
                await it.ids(request([1] * 40))

    asyncio.run(run())


def test_a_prompt_outside_the_vocabulary_is_refused():
    async def run():
        async with bench() as it:
            for token in (-1, VOCAB_SIZE):
                with pytest.raises(ValueError, match=r"outside \[0, 16\)"):
                    await it.ids(request([1, token]))
            await it.freed()

    asyncio.run(run())


def test_an_engine_failure_ends_the_generation_and_frees_both_sides():
    class Failing(FakeDeviceEngine):
        def logits(self, sequence, deep, position, num_logits):
            raise RuntimeError("no logits today")

    async def run():
        async with bench(engine=Failing()) as it:
            with pytest.raises(RuntimeError, match="no logits today"):
                await it.ids(request([1, 2]))
            await it.freed()

    asyncio.run(run())


def test_stats_count_what_happened():
    async def run():
        async with bench(chunk_tokens=4, draft_tokens=3) as it:
            wanted = request(PROMPTS[6], 60, sampling=REPETITIVE)
            generation = it.runtime.generate(wanted, "test")
            emissions = [emission async for emission in generation]
            stats = generation.stats
            assert stats.num_prompt_tokens == len(PROMPTS[6])
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
            assert stats.finish_reason == "length"

    asyncio.run(run())


def test_a_links_delay_is_measured_over_drafts_and_never_over_a_prompts_chunks():
    async def run():
        async with bench(chunk_tokens=5) as it:
            for num_tokens, is_measured in ((1, False), (2, True)):
                generation = it.runtime.generate(request(PROMPTS[6], num_tokens), "test")
                assert len([emission async for emission in generation]) > 0
                assert generation.stats.num_chunks > 1
                assert (generation.stats.link_delay_s is not None) is is_measured

    asyncio.run(run())


def test_a_next_turn_continues_the_cached_conversation_and_says_the_same():
    async def run():
        async with bench(kept=KEEP_SOME, chunk_tokens=5) as it:
            turn = request(PROMPTS[6], 8)
            answer = await it.ids(turn)
            for follow_up in ([3, 1], [4]):
                text = [*turn.prompt_ids, *answer, *follow_up]
                turn = request(text, 8)
                num_computed = it.engine.num_input_tokens
                generation = it.runtime.generate(turn, "test")
                answer = [t.id async for emission in generation for t in emission.tokens]
                assert answer == expected(turn)
                assert generation.stats.num_reused_tokens >= len(text) - len(follow_up) - 1
                assert it.engine.num_input_tokens - num_computed < len(text)
            assert it.runtime.figures().num_kept_sessions == 1
            await it.freed(num_kept=1)

    asyncio.run(run())


def test_a_continued_session_goes_on_in_later_epochs_and_counts_its_own_bytes():
    async def run():
        async with bench(kept=KEEP_SOME, drafter="ngram") as it:
            num_frames, epochs, text = 0, [], PROMPTS[6]
            # Each turn keeps a part of the answer before it, and so fits into the same session.
            for num_tokens, num_kept in ((20, 6), (8, 2), (5, 0)):
                turn = request(text, num_tokens, sampling=REPETITIVE)
                generation = it.runtime.generate(turn, "test")
                answer = [t.id async for emission in generation for t in emission.tokens]
                frames, num_frames = it.cloud.frames[num_frames:], len(it.cloud.frames)
                num_bytes = sum(len(frame.payload) + STATES.size for frame in frames)
                assert generation.stats.bytes_up == num_bytes
                # A frame of an older epoch is dropped by a cloud without a word.
                assert not epochs or frames[0].epoch > epochs[-1]
                epochs += [frame.epoch for frame in frames]
                text = [*text, *answer[:num_kept], 9]
            assert epochs == sorted(epochs)
            assert len({frame.session for frame in it.cloud.frames}) == 1

    asyncio.run(run())


def test_a_prompt_that_shares_only_a_beginning_forks_it_and_leaves_the_origin():
    async def run():
        async with bench(kept=KEEP_SOME) as it:
            common = [1, 2, 3, 4, 5, 6]
            long = request([*common, *range(16), *range(16)], 6)
            short = request([*common, 9, 9], 6)
            assert await it.ids(long) == expected(long)
            generation = it.runtime.generate(short, "test")
            ids = [t.id async for emission in generation for t in emission.tokens]
            assert ids == expected(short)
            assert generation.stats.num_reused_tokens == len(common)
            assert it.cloud.opens[-1].fork_tokens == len(common)
            again = request([*long.prompt_ids, *expected(long)], 6)
            assert await it.ids(again) == expected(again)
            await it.freed(num_kept=2)

    asyncio.run(run())


def test_a_fork_that_is_refused_uploads_the_prompt_instead():
    async def run():
        async with bench(kept=KEEP_SOME) as it:
            first = request([1, 2, 3, 4, 5, 6, 7], 2)
            await it.ids(first)
            it.cloud.refuse_open = [fault(FaultCode.UNKNOWN_SESSION)]
            second = request([1, 2, 3, 4, 5, 6, 7, 8], 40)
            assert await it.ids(second) == expected(second)

    asyncio.run(run())


@pytest.mark.parametrize("code", [FaultCode.CAPACITY, FaultCode.TOO_MANY_SESSIONS])
def test_kept_sessions_make_room_when_the_cloud_is_full(code):
    async def run():
        async with bench(kept=KEEP_SOME) as it:
            await it.ids(request([1, 2, 3, 4, 5], 2))
            it.cloud.refuse_open = [fault(code, 9.0)]
            wanted = request([9, 9, 9, 9, 9], 2)
            assert await it.ids(wanted) == expected(wanted)
            await it.freed(num_kept=1)

    asyncio.run(run())


def test_kept_sessions_are_given_up_as_soon_as_the_cloud_says_that_it_stops():
    async def run():
        async with bench(kept=KEEP_SOME, reconnect_timeout_s=0) as it:
            await it.ids(request([1, 2, 3, 4, 5], 2))
            it.cloud.is_draining = True
            with pytest.raises(CloudUnavailableError):
                await it.ids(request([9, 9, 9, 9, 9], 2))
            assert it.runtime.figures().num_kept_sessions == 0
            await it.freed(num_kept=0)

    asyncio.run(run())


def test_a_new_session_that_is_said_to_hold_something_is_a_broken_promise():
    class Forgetful(FakeCloud):
        def _open(self, message):
            return replace(super()._open(message), cached_tokens=3)

    async def run():
        async with bench(Forgetful()) as it:
            with pytest.raises(CloudUnavailableError, match="expected 0 cached tokens, got 3"):
                await it.ids(request([1, 2, 3, 4, 5], 2))
            await it.freed()

    asyncio.run(run())


def test_kept_sessions_of_a_lost_cloud_are_not_continued():
    async def run():
        async with bench(kept=KEEP_SOME) as it:
            wanted = request([1, 2, 3, 4, 5], 20)
            assert await it.ids(wanted) == expected(wanted)
            it.cloud.vanish()
            await until(lambda: it.runtime.ready() is not None)
            await until(lambda: it.runtime.ready() is None)
            again = replace(wanted, prompt_ids=[*wanted.prompt_ids, *expected(wanted)])
            assert await it.ids(again) == expected(again)
            await it.freed(num_kept=1)

    asyncio.run(run())


def test_kept_sessions_end_before_the_cloud_forgets_them():
    async def run():
        async with bench(FakeCloud(session_ttl_s=0.01), kept=KEEP_SOME) as it:
            await it.ids(request([1, 2, 3, 4, 5], 2))
            await it.freed(num_kept=0)

    asyncio.run(run())


def test_closing_the_runtime_tells_the_cloud_that_its_sessions_are_over():
    async def run():
        async with bench(kept=KEEP_SOME) as it:
            await it.ids(request([1, 2, 3, 4, 5], 2))
            await it.runtime.close()
            assert not it.cloud.live

    asyncio.run(run())
