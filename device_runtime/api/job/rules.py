"""What the answers to a request may not say: the grammar they are held to, and bad words."""

from collections.abc import Sequence
from dataclasses import dataclass

from device_runtime.api.job.grammar import compiled
from device_runtime.api.job.prompts import EncodedChat
from device_runtime.api.request.body import CommonFields
from device_runtime.api.service import Service
from device_runtime.calling.tools import Offer
from device_runtime.generation.grammar import Grammar


@dataclass(frozen=True, slots=True)
class Rules:
    """The same for all answers to one request; a bad word is some rows of tokens."""

    grammar: Grammar | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()


async def rules_of(
    service: Service, request: CommonFields, offer: Offer | None, chat: EncodedChat | None
) -> Rules:
    """What a request wants; `chat` is its conversation, if it has one.

    Raises:
        ApiError: 400, a grammar that cannot be compiled.
        OverloadedError: too many texts or grammars wait already.
    """
    grammar = await compiled(service, request, offer, chat)
    return Rules(grammar, await _rows(service, request.bad_words or ()))


async def _rows(service: Service, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Each word as the tokenizer writes it at the beginning of a text and behind a space.

    Source: `SamplingParams.update_from_tokenizer` of vLLM, which leaves out the second where it has
    another number of tokens than the first.
    """
    if not words:
        return ()
    tokenizer, vocab_size = service.tokenizer, service.generator.vocab_size
    texts = [before + word.lstrip() for word in words for before in ("", " ")]

    def rows() -> tuple[tuple[int, ...], ...]:
        encoded = (tuple(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
        known = (row for row in encoded if row and max(row) < vocab_size)
        return tuple(dict.fromkeys(known))

    return await service.text_work.tokenize(sum(map(len, texts)), rows)
