"""What to set differently, by what each choice would lead to; every advice has its reason."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from adapters.storage import TrainingFigures
from device_runtime.config import DeviceConfig
from hat.doctor import pauses
from hat.doctor.cloud import CloudFindings
from hat.doctor.device import DeviceFindings
from hat.doctor.foretell import (
    Choice,
    Drafts,
    Outlook,
    Speed,
    Surroundings,
    assumed_drafts,
    card_drafts,
    scaled,
)
from hat.quantities import number, seconds

About = Literal["m", "k", "weights", "drafter", "chunks", "rows", "pause"]

_LITTLE = 0.05
"""A share of the time that nobody notices."""

_MUCH = 0.15
"""A share of the time that is worth a loss of something else."""

_MOST_MORE_LAYERS = 2
_PROMPT_TOKENS = 1000

_GOOD_TOKENS_PER_ROUND = 2.0
"""Of a trained adapter, where there is none: less than those that come with hat reach."""

_ASSUMED_DRAFT_TOKENS = 4
_FIXED_CHUNKS = (0, 64, 256)


@dataclass(frozen=True, slots=True)
class Advice:
    """One setting: what it should be, why, and what sets it."""

    about: About
    what: str
    reason: str
    how: str | None = None
    """A command or a flag; None where nothing is to be changed."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """What to expect of the settings as they are, and what would be better."""

    outlook: Outlook
    """Without drafts."""
    drafted: Speed | None
    """With the bundle's adapter, where it is used."""
    advice: tuple[Advice, ...]


@dataclass(frozen=True, slots=True)
class Drafter:
    """What drafts with the settings as they are."""

    name: str
    """none, ngram, adapter or medusa."""
    figures: TrainingFigures | None
    """Of the bundle's adapter, used or not; None where it has none."""


def foretell(
    config: DeviceConfig, device: DeviceFindings, here: Surroundings, drafter: Drafter
) -> Foretold:
    """Ask the simulator what the settings as they are lead to, and what others would."""
    return _Foretelling(config, device, here, drafter).all()


class _Foretelling:
    def __init__(
        self, config: DeviceConfig, device: DeviceFindings, here: Surroundings, drafter: Drafter
    ) -> None:
        self._config = config
        self._device = device
        self._here = here
        self._drafter = drafter
        now = device.now
        self._now = Choice(
            layers=now.layers,
            head=now.head,
            returns_all_rows=device.num_output_layers > 0,
            chunking=config.chunking,
            chunk_tokens=config.chunk_tokens,
        )
        self._size = max((n for n in here.prompt_sizes if n <= _PROMPT_TOKENS), default=1)
        self._outlook = here.outlook(self._now)

    def all(self) -> Foretold:
        """The outlook, and advice about everything that can be chosen."""
        drafted, drafter_advice = self._of_drafter()
        advice = (
            *self._of_input_layers(),
            *self._of_output_layers(),
            self._of_weights(),
            drafter_advice,
            self._of_chunks(),
            *_of_rows(self._here.cloud),
            *self._of_pauses(),
        )
        return Foretold(self._outlook, drafted, advice)

    def _with(self, choice: Choice) -> Outlook:
        return self._here.outlook(choice, (self._size,))

    def _more_ttft_s(self, other: Outlook) -> float:
        return other.ttft_s(self._size) - self._ttft_s

    def _more_token_s(self, other: Outlook) -> float:
        return other.speed.token_s - self._outlook.speed.token_s

    @property
    def _ttft_s(self) -> float:
        if self._size in self._here.prompt_sizes:
            return self._outlook.ttft_s(self._size)
        return self._with(self._now).ttft_s(self._size)

    def _is_little(self, other: Outlook, share: float = _LITTLE) -> bool:
        """Whether it is hardly slower, in both respects."""
        return (
            self._more_ttft_s(other) <= share * self._ttft_s
            and self._more_token_s(other) <= share * self._outlook.speed.token_s
        )

    def _price(self, other: Outlook) -> str:
        """What another choice takes more, or less, than the settings as they are."""
        token, prompt = difference(self._more_token_s(other)), difference(self._more_ttft_s(other))
        return f"{token} per token, {prompt} to the first one of {self._size:,}"

    def _layers_more(self, num_input: int, num_output: int) -> Choice:
        """The split with other numbers of layers on the device."""
        device = self._device
        layer_share = 1.0 / device.num_input_layers
        num_here = device.num_input_layers + device.num_output_layers
        num_middle = device.num_layers - num_here
        more = num_input + num_output - num_here
        per_layer = scaled(self._now.layers, layer_share)
        more_output = num_output - device.num_output_layers
        head = self._now.head
        return replace(
            self._now,
            layers=scaled(per_layer, num_input + num_output),
            head=replace(
                head,
                fixed_s=max(0.0, head.fixed_s + more_output * per_layer.fixed_s),
                token_s=max(0.0, head.token_s + more_output * per_layer.token_s),
            ),
            cloud_share=(num_middle - more) / num_middle,
            returns_all_rows=num_output > 0,
        )

    def _of_input_layers(self) -> Iterator[Advice]:
        device = self._device
        now = device.num_input_layers
        if now == 0:
            reason = "with the embedding alone here, whoever has the model reads every token"
            yield Advice("m", "at least 1 input layer", reason, _split("--input-layers", 1))
            return
        num_middle = device.num_layers - now - device.num_output_layers
        most = now + min(_MOST_MORE_LAYERS, num_middle - 1)
        others = {
            num: self._with(self._layers_more(num, device.num_output_layers))
            for num in range(now + 1, most + 1)
        }
        best = max((num for num, other in others.items() if self._is_little(other)), default=now)
        if best > now:
            reason = f"what goes up is harder to read; {self._price(others[best])}"
            yield Advice("m", f"{best} input layers", reason, _split("--input-layers", best))
        elif others:
            reason = f"{now + 1} would take {self._price(others[now + 1])}"
            yield Advice("m", f"keep {now} input layers", reason)

    def _of_output_layers(self) -> Iterator[Advice]:
        device = self._device
        now = device.num_output_layers
        if now > 0:
            reason = "what comes down says no token to who has the public head"
            yield Advice("k", f"keep {now} output layers", reason)
            return
        if device.num_input_layers == 0 or device.num_layers - device.num_input_layers < 2:
            return
        other = self._with(self._layers_more(device.num_input_layers, 1))
        price = self._price(other)
        if self._is_little(other, _MUCH):
            reason = f"the cloud can then not put the public head on what it returns; {price}"
            yield Advice("k", "1 output layer", reason, _split("--output-layers", 1))
        else:
            reason = f"1 would keep the public head from reading answers, and take {price}"
            yield Advice("k", "keep 0 output layers", reason)

    def _of_weights(self) -> Advice:
        device = self._device
        others = {
            times.weights: self._with(replace(self._now, layers=times.layers, head=times.head))
            for times in device.weights
            if times.weights != device.chosen
        }
        if device.chosen != "float32":
            exact = others.get("float32")
            if exact is not None and self._is_little(exact):
                reason = f"exact; {self._price(exact)}"
                return Advice("weights", "float32", reason, "--weights float32")
            reason = f"{device.chosen} changes answers a little"
            if exact is not None:
                reason += f"; float32 would take {self._price(exact)}"
            return Advice("weights", f"keep {device.chosen}", reason)
        if not others:
            return Advice("weights", "keep float32", "exact; the bundle has no other")
        fastest = min(others, key=lambda name: others[name].speed.token_s)
        gained_s = -self._more_token_s(others[fastest])
        reason = f"exact; {fastest} changes answers, and takes {self._price(others[fastest])}"
        if gained_s > _MUCH * self._outlook.speed.token_s:
            what = f"float32, or {fastest} if answers may differ"
            return Advice("weights", what, reason, f"--weights {fastest}")
        return Advice("weights", "keep float32", reason)

    def _of_drafter(self) -> tuple[Speed | None, Advice]:
        plain, drafter = self._outlook.speed, self._drafter
        figures = drafter.figures
        step_s = self._device.now.draft_token_s
        limits = self._device.draft_limits
        if drafter.name == "adapter" and figures and limits and step_s is not None:
            drafts = card_drafts(figures, limits, step_s)
            drafted = self._with(replace(self._now, drafts=drafts)).speed
            if drafted.token_s <= plain.token_s:
                reason = f"{rate(drafted)} instead of {rate(plain)} without drafts"
                return drafted, Advice("drafter", "keep the adapter", reason)
            reason = f"here its drafts take longer than they save: {rate(drafted)}, {rate(plain)}"
            return drafted, Advice("drafter", "suffix", reason, "--drafter suffix")
        if figures is not None and drafter.name != "adapter":
            reason = "the bundle's adapter is not used: another drafter was set"
            return None, Advice("drafter", f"keep {drafter.name}", reason)
        if drafter.name == "medusa":
            return None, Advice("drafter", "keep medusa", "what its heads bring is not known here")
        drafted = self._with(replace(self._now, drafts=self._trained())).speed
        reason = (
            f"each token costs a round trip, but where the text repeats itself; one that brings "
            f"{_GOOD_TOKENS_PER_ROUND:g} tokens a round would give {rate(drafted)}"
        )
        how = "hat adapter train BUNDLE --text FILE"
        return None, Advice("drafter", "train an adapter", reason, how)

    def _trained(self) -> Drafts:
        """An adapter of one layer, beside input layers and head in the weights of now."""
        now, num_layers = self._device.now, max(1, self._device.num_input_layers)
        step_s = now.layers.of(1) * (1 + 1 / num_layers) + now.head.of(1)
        return assumed_drafts(_GOOD_TOKENS_PER_ROUND, _ASSUMED_DRAFT_TOKENS, step_s)

    def _of_chunks(self) -> Advice:
        now = replace(self._now, chunking="adaptive")
        own = self._with(now)
        others = {
            size: self._with(replace(now, chunking="fixed", chunk_tokens=size))
            for size in _FIXED_CHUNKS
        }
        best = min(others, key=lambda size: others[size].ttft_s(self._size))
        adaptive_s, best_s = own.ttft_s(self._size), others[best].ttft_s(self._size)
        chunks = "+".join(map(str, own.prompts[0].chunks))
        whole = seconds(others[0].ttft_s(self._size))
        reason = (
            f"{seconds(adaptive_s)} to the first token of {self._size:,}, sent as {chunks}; "
            f"sent whole {whole}"
        )
        if best_s < (1 - _LITTLE) * adaptive_s:
            sent = f"in chunks of {best}" if best else "whole"
            reason += f", {sent} {seconds(best_s)}"
            return Advice("chunks", sent, reason, f"--chunking fixed --chunk-tokens {best}")
        if self._config.chunking == "adaptive":
            return Advice("chunks", "keep adaptive", reason)
        return Advice("chunks", "adaptive", reason, "--chunking adaptive")

    def _of_pauses(self) -> Iterator[Advice]:
        link = self._here.link
        size = pauses.prompt_bytes(link, self._here.cloud)
        lost_s = pauses.pause_s(link, size)
        if lost_s < _LITTLE * self._ttft_s:
            return
        reason = f"a prompt of 1,000 tokens takes up to {seconds(lost_s)} longer after every pause"
        if self._device.num_output_layers > 0:
            reason += "; on the cloud's machine as well, since its rows come down"
        what, how = f"{pauses.SETTING} 0 on this machine", f"sysctl -w {pauses.SETTING}=0"
        if link.can_be_warm:
            what, how = f"{what}, or {pauses.REMEDY}", f"--congestion-control {pauses.REMEDY}"
        yield Advice("pause", what, reason, how)


def _of_rows(cloud: CloudFindings) -> Iterator[Advice]:
    if cloud.row_format == "FP32":
        reason = f"{cloud.row_bytes:,} bytes a token; 16 bits are half of it, and may part at a tie"
        how = "hat cloud --wire-dtype bfloat16"
        yield Advice("rows", "rows of 16 bits, if the link is slow", reason, how)


def _split(flag: str, number: int) -> str:
    return f"hat split MODEL {flag} {number} --out DIR"


def difference(value_s: float) -> str:
    """Seconds more or less."""
    return f"{seconds(abs(value_s))} {'more' if value_s >= 0 else 'less'}"


def rate(speed: Speed) -> str:
    """Tokens per second."""
    return f"{number(speed.tokens_per_s)} tokens/s"
