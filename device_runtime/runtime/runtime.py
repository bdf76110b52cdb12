"""The runtime: generations on one engine and one link, each from a queue to its last token."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial

from chunking.bounded_planner import BoundedPlanner
from chunking.chooser import ChunkChooser
from chunking.estimates import Estimates
from chunking.paper_planner import PaperPlanner
from chunking.planner import FixedSizePlanner, Planner
from device_runtime.config import DeviceConfig
from device_runtime.drafting.choice import DrafterName, Drafters
from device_runtime.drafting.medusa import Heads
from device_runtime.engines.engine import TappedEngine, Workers
from device_runtime.generation.request import CloudUnavailableError, Emission, GenerationRequest
from device_runtime.generation.stats import GenerationStats
from device_runtime.link.link import Link
from device_runtime.link.session import (
    MAX_UNANSWERED_FRAMES,
    LinkLostError,
    SessionRefusedError,
)
from device_runtime.runtime.admission import Admission
from device_runtime.runtime.alone import LoneDraft, LoneLog, check_answerable
from device_runtime.runtime.driver import Driver
from device_runtime.runtime.outage import Outage, heals_by_reconnecting
from device_runtime.runtime.place import Place
from device_runtime.runtime.places import Places
from device_runtime.runtime.recorder import Recorder
from device_runtime.runtime.shelf import Shelf
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from device_runtime.session.pipelining import (
    FixedPipelining,
    GatedPipelining,
    Pipelining,
    RoundTimes,
)
from device_runtime.session.prefix_cache import PrefixCacheLimits
from device_runtime.session.session import Session, SessionLimits, num_new_tokens
from process.program.logs import with_fields
from process.world import Clock, Randomness
from wire.errors import RemoteProtocolError
from wire.limits import ITEM_BYTES
from wire.messages import Dtype

_log = logging.getLogger(__name__)

_MIN_SHARED_TOKENS = 16

BLINK_S = 2.0
"""So long a new request waits for a link that was just lost, as when a cloud is exchanged."""


class Generation(AsyncIterator[Emission]):
    """A running generation: its emissions, and what it did. Close it when it is not read on."""

    def __init__(self, emissions: AsyncGenerator[Emission], stats: GenerationStats) -> None:
        self._emissions = emissions
        self.stats = stats

    async def __anext__(self) -> Emission:
        return await self._emissions.__anext__()

    async def aclose(self) -> None:
        """End the generation and free its session on both sides; repeats are harmless."""
        await self._emissions.aclose()


class Runtime:
    """Implements `device_runtime.generation.request.Generator`.

    The workers and their engine are the runtime's from now on, and so is the link: `start` starts
    it and `close` closes all. `clock` is the event loop's; seeds come from `randomness`. `kept`
    bounds the finished sessions that wait for a conversation's next turn, `shelf` is where they
    outlive the program, if they may. `heads` are those of the drafter medusa.
    """

    def __init__(
        self,
        workers: Workers,
        link: Link,
        config: DeviceConfig,
        clock: Clock,
        randomness: Randomness,
        kept: PrefixCacheLimits | None = None,
        heads: Heads | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        engine = workers.engine
        self.vocab_size = engine.vocab_size
        self._hidden_size = engine.hidden_size
        self._feeds_output_layers = engine.num_output_layers > 0
        most = config.max_model_len or engine.max_context_tokens
        self._own_context_tokens = min(most, engine.max_context_tokens)
        self._config = config
        self._link = link
        if isinstance(engine, TappedEngine):
            link.taps = engine.taps
        self._clock = clock
        self._randomness = randomness
        self._blink_s = min(BLINK_S, config.reconnect_timeout_s)
        self._workers = workers
        self._drafters = Drafters(config, workers, clock, heads)
        self.admission = Admission(config.max_num_seqs, config.max_queue)
        if kept is None:
            # Room for two full conversations, however long a context is.
            kept = PrefixCacheLimits(
                config.kept_sessions, 2 * self._own_context_tokens, _MIN_SHARED_TOKENS
            )
        self._round_times = RoundTimes()
        self._lone_log = LoneLog()
        self._places = Places(self._workers, link, kept, self._clock, self._known, shelf)

    @property
    def max_context_tokens(self) -> int:
        """The most tokens of prompt and output together that device and cloud can hold."""
        limits = self._link.limits
        if limits is None:
            return self._own_context_tokens
        return min(self._own_context_tokens, limits.max_context_tokens)

    @property
    def drafters(self) -> tuple[DrafterName, ...]:
        """What drafts here; none where each token takes a round of its own."""
        return self._drafters.names

    @property
    def outlives_program(self) -> bool:
        """Whether kept sessions lie on disk."""
        return self._places.are_written

    def start(self) -> None:
        """Begin to connect; needs a running loop."""
        self._places.restore()
        self._link.start()

    async def close(self) -> None:
        """End kept sessions, the link and the engine's thread. Close generations first."""
        await self._places.close()
        await self._link.close()
        self._workers.close()

    def ready(self) -> str | None:
        """None when the whole model can answer now, else the reason why not."""
        return self._link.status.reason

    @property
    def may_answer_alone(self) -> bool:
        """Whether the draft model answers requests while there is no cloud."""
        return self._config.when_cloud_gone == "draft"

    @property
    def answers_alone(self) -> bool:
        """Whether there is no cloud now; one that says why it refuses this device is there."""
        return self.may_answer_alone and not self._link.has_cloud

    def generate(self, request: GenerationRequest, request_id: str) -> Generation:
        """Generate until a stop token, `max_tokens`, the end of the context, or `aclose`.

        Raises (when iterated):
            CloudUnavailableError: before or in the middle of the stream.
            OverloadedError: before the first emission.
            ValueError: a request that cannot be served as it is.
        """
        stats = GenerationStats()
        return Generation(self._generate(request, request_id, stats), stats)

    async def _generate(
        self, request: GenerationRequest, request_id: str, stats: GenerationStats
    ) -> AsyncGenerator[Emission]:
        """The whole model's answer, or where there is no cloud and it may be the draft model's."""
        recorder = Recorder(stats, self._link.monitor, self._clock, request.wants_timeline)
        sampler = self._checked_sampler(request)
        if not self.may_answer_alone:
            self._check_link()
        turn = await self.admission.acquire(request.is_let_in)
        is_begun = False
        try:
            recorder.queued()
            async with aclosing(self._whole(request, sampler, recorder, turn)) as emissions:
                try:
                    async for emission in emissions:
                        is_begun = True
                        yield emission
                    return
                except CloudUnavailableError as error:
                    # All tokens of an answer are the model's, or none is.
                    if is_begun or not self.answers_alone:
                        raise
                    self._lone_log.tell(self._link.num_connections, error.reason)
            async with aclosing(self._drafted(request, recorder)) as emissions:
                async for emission in emissions:
                    yield emission
        except RemoteProtocolError as error:
            told = with_fields(trace_id=request.trace_id.hex())
            _log.error("generation %s: %s", request_id, error, extra=told)
            raise CloudUnavailableError(f"the cloud broke the protocol: {error}") from error
        finally:
            turn.close()
            recorder.ended()

    async def _drafted(
        self, request: GenerationRequest, recorder: Recorder
    ) -> AsyncGenerator[Emission]:
        """The draft model's own answer."""
        check_answerable(request, self._link.status.reason or "no cloud")
        num_new = num_new_tokens(request, self.max_context_tokens)
        # Nothing was decided, but another one may have come far enough to look.
        sampler = self._checked_sampler(request)
        alone = LoneDraft(request, num_new, self._workers, sampler, recorder)
        async with aclosing(alone.run()) as emissions:
            async for emission in emissions:
                recorder.emitted()
                yield emission

    async def _whole(
        self,
        request: GenerationRequest,
        sampler: Sampler,
        recorder: Recorder,
        turn: contextlib.ExitStack,
    ) -> AsyncGenerator[Emission]:
        """The whole model's answer; all that it holds is taken here and given back here."""
        place: Place | None = None
        driver: Driver | None = None
        try:
            await self._require_link()
            timeout_s = self._config.reconnect_timeout_s
            outage = Outage(self._link, timeout_s, self._clock, self._randomness)
            driver = await self._begin(request, sampler, outage, recorder)
            place = driver.place
            async with aclosing(driver.run()) as emissions:
                async for emission in emissions:
                    recorder.emitted()
                    if emission.finish_reason is not None:
                        # Given back before the caller takes the last tokens: it may be slow.
                        recorder.carried(driver.place)
                        text, epoch = driver.session.valid_text, driver.session.epoch
                        self._places.keep(driver.place, text, epoch + 1, request.is_remembered)
                        place = None
                        turn.close()
                    yield emission
        finally:
            if place is not None:
                recorder.carried(place)
                place.release()
            if driver is not None and request.is_remembered:
                self._drafters.remember(driver.session.text)

    def _checked_sampler(self, request: GenerationRequest) -> Sampler:
        """The request's sampler, once the request is known to be servable."""
        num_new_tokens(request, self.max_context_tokens)
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < self.vocab_size:
            raise ValueError(f"the prompt has a token outside [0, {self.vocab_size})")
        seed = request.sampling.seed
        noise = PositionNoise(self._randomness.getrandbits(63) if seed is None else seed)
        return Sampler(request, self.vocab_size, noise)

    def _check_link(self) -> None:
        """Return if there is a link, or one that may be back in a moment."""
        if not self._link.was_up_within(self._blink_s):
            raise self._unavailable()

    async def _require_link(self) -> None:
        """Wait a moment for a link that was just lost, or is being made for the first time.

        Raises:
            CloudUnavailableError: there is none.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._blink_s):
                await self._link.tried()
                if self._link.was_up_within(self._blink_s):
                    await self._link.connected()
        if not self._link.status.is_connected or self._link.limits is None:
            raise self._unavailable()

    def _unavailable(self) -> CloudUnavailableError:
        status = self._link.status
        return CloudUnavailableError(status.reason or "no cloud", status.retry_after_s)

    async def _begin(
        self, request: GenerationRequest, sampler: Sampler, outage: Outage, recorder: Recorder
    ) -> Driver:
        """A generation under way, with as much of the prompt in its caches as can be reused."""
        started_s = self._clock()
        attempt = partial(self._in_a_place, request, sampler, outage, recorder)
        try:
            driver = await attempt()
        except CloudUnavailableError as failure:
            if not heals_by_reconnecting(failure):
                raise
            driver = await outage.over(failure, attempt)
        recorder.opened(started_s)
        return driver

    async def _in_a_place(
        self, request: GenerationRequest, sampler: Sampler, outage: Outage, recorder: Recorder
    ) -> Driver:
        """A generation under way in the first place that the cloud does not refuse."""
        refusal: SessionRefusedError | None = None
        # The last token is chosen and never computed.
        num_new = num_new_tokens(request, self.max_context_tokens)
        num_reserved = len(request.prompt_ids) + num_new - 1
        candidates = self._places.candidates(
            request.prompt_ids,
            num_reserved,
            goes_up_whole=request.num_prompt_logprobs is not None,
        )
        async with aclosing(candidates) as places:
            async for place in places:
                try:
                    place.trace(request.trace_id)
                    driver = self._driver(request, place, sampler, outage, recorder)
                    await driver.begin()
                    begun_s = self._clock()
                    await self._places.confirm(place)
                except SessionRefusedError as error:
                    refusal = error
                    place.refused(error)
                except LinkLostError:
                    self._places.leave(place, request.prompt_ids, request.is_remembered)
                    raise
                except BaseException:
                    place.release()
                    raise
                else:
                    # With chunks under way, who waits for the session waits for their replies.
                    recorder.waited(begun_s)
                    return driver
        assert refusal is not None, "there is a place to try"
        raise refusal

    def _driver(
        self,
        request: GenerationRequest,
        place: Place,
        sampler: Sampler,
        outage: Outage,
        recorder: Recorder,
    ) -> Driver:
        """The generation, ready to run."""
        limits = SessionLimits(
            max_context_tokens=self.max_context_tokens,
            max_frame_tokens=place.max_frame_tokens,
            max_frames_in_flight=MAX_UNANSWERED_FRAMES,
            feeds_output_layers=self._feeds_output_layers,
        )
        drafting = self._drafters.drafting(sampler, request.stop_token_ids)
        chunks = self._chunk_chooser(place, limits)
        recorder.placed(place.num_cached_tokens, chunks.choices)
        recorder.drafts(drafting.drafted_by)
        session = Session(
            request,
            limits,
            chunks,
            drafting.length,
            self._pipelining(),
            num_cached_tokens=place.num_cached_tokens,
            first_epoch=place.next_epoch,
        )
        return Driver(session, place, sampler, drafting.drafter, outage, recorder)

    def _pipelining(self) -> Pipelining:
        """How many rounds may be under way; what a round takes is known from other answers."""
        if self._config.pipelining == "off":
            return FixedPipelining(0)
        return GatedPipelining(self._round_times)

    def _known(self, dtype: Dtype) -> Estimates:
        """What was measured of link and cloud, for rows in this number format."""
        return self._link.monitor.estimates(self._hidden_size * ITEM_BYTES[dtype])

    def _chunk_chooser(self, place: Place, limits: SessionLimits) -> ChunkChooser:
        """Asked before every chunk, with what is known of link and cloud by then."""
        dtype = place.stream.dtype
        return ChunkChooser(
            _planner(self._config),
            lambda: self._known(dtype),
            self._clock,
            lambda: place.stream.reply_came_s,
            limits.max_frame_tokens,
        )


def _planner(config: DeviceConfig) -> Planner:
    """Who cuts prompts, by the settings."""
    match config.chunking:
        case "adaptive":
            return BoundedPlanner()
        case "paper":
            return PaperPlanner()
        case "fixed":
            return FixedSizePlanner(config.chunk_tokens or None)
