"""`python -m bench.drafters.agent_session BUNDLES`: what suffix drafts bring an agent.

Texts of an agent's session are drafted as the device does, with its policy, along answers that are
given: no model runs, and time is made up (a drafted row costs so many percent of a round). The
tokens are those of the bundle's tokenizer.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.drafters.agent_session_texts import SESSIONS, Exchange
from bench.drafters.drafts.at_once import AT_ONCE, NO_ROWS, SEQUENCE, result_of
from bench.drafters.rounds import Known, one_round
from device_runtime.drafting.combined import CombinedDrafter, Guesser
from device_runtime.drafting.ngram import NGRAM_CHANCES, NgramGuesses
from device_runtime.drafting.policy.lessons import Lessons
from device_runtime.drafting.policy.policy import DraftPolicy
from device_runtime.drafting.suffix.guesses import SuffixGuesses
from device_runtime.drafting.suffix.guessing import MOST_GUESSES, SUFFIX_CHANCES
from device_runtime.drafting.suffix.memory import SuffixMemory
from device_runtime.text.tokenizer import load_tokenizer

ROW_SHARES = (0.02, 0.1)
"""A row's time as a share of a round's: a fast link, and a thin one."""

_NGRAM_TOKENS = 4
_MEMORY_TOKENS = 262_144

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """Prompts and answers in tokens, in their order."""

    exchanges: tuple[tuple[Ids, Ids], ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a session; the first token of each answer comes with its prompt."""

    num_rounds: int
    num_tokens: int
    num_drafted: int
    num_accepted: int

    @property
    def tokens_per_round(self) -> float:
        """Of all rounds of the session."""
        return self.num_tokens / self.num_rounds


class Drafts:
    """A guesser and its policy over the requests of a session."""

    def __init__(
        self,
        chances: Sequence[float],
        most: int,
        new: Callable[[SuffixMemory | None], Guesser],
        remembers: bool,
    ) -> None:
        self._lessons = Lessons(chances)
        self._most = most
        self._new = new
        self._memory = SuffixMemory(_MEMORY_TOKENS) if remembers else None

    def replay(self, session: Session, row_share: float) -> Figures:
        """Draft along all answers of the session."""
        rounds = [one for each in session.exchanges for one in self._rounds(*each, row_share)]
        sums = [sum(each) for each in zip(*rounds, strict=True)]
        return Figures(len(rounds), *sums)

    def _rounds(self, prompt: Ids, answer: Ids, row_share: float) -> Iterator[tuple[int, int, int]]:
        """Tokens decided, drafted and accepted of each round of one request."""
        guesser, policy = self._new(self._memory), DraftPolicy(self._lessons, 0)
        drafter = CombinedDrafter(policy, self._most, lambda: 0.0, guesser)
        drafter.begin(prompt)
        drafter.decided(answer[:1], NO_ROWS)
        known, done = Known(answer, len(answer), frozenset()), 1
        while done < len(answer):
            most = min(drafter.num_tokens(), len(answer) - done - 1)
            so_far = (*prompt, *answer[:done])
            draft = result_of(drafter.propose(AT_ONCE, SEQUENCE, so_far, most))
            one = one_round(known, done - 1, draft, most)
            drafter.decided(answer[done : done + one.num_tokens], NO_ROWS)
            round_s = 1.0 + row_share * one.num_drafted
            drafter.on_round(one.num_drafted, one.num_accepted, round_s)
            done += one.num_tokens
            yield one.num_tokens, one.num_drafted, one.num_accepted
        if self._memory is not None:
            self._memory.remember((*prompt, *answer))


def arms() -> dict[str, Drafts]:
    """Each way to draft, fresh."""
    return {
        "ngram": Drafts(NGRAM_CHANCES, _NGRAM_TOKENS, lambda _: NgramGuesses(_NGRAM_TOKENS), False),
        "suffix, own text": Drafts(SUFFIX_CHANCES, MOST_GUESSES, SuffixGuesses, False),
        "suffix, with memory": Drafts(SUFFIX_CHANCES, MOST_GUESSES, SuffixGuesses, True),
    }


def session_of(exchanges: Sequence[Exchange], encode: Callable[[str], Sequence[int]]) -> Session:
    """A session in tokens, each answer with its own."""
    return Session(
        tuple((tuple(encode(each.prompt)), tuple(encode(each.answer))) for each in exchanges)
    )


def table(encode: Callable[[str], Sequence[int]]) -> str:
    """Tokens per round by session, drafter and cost of a row, in Markdown."""
    names = list(arms())
    lines = [
        f"| session | answers, tokens | a row costs | {' | '.join(names)} |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for name, exchanges in SESSIONS.items():
        session = session_of(exchanges(), encode)
        num_tokens = sum(len(answer) for _, answer in session.exchanges)
        for share in ROW_SHARES:
            found = [drafts.replay(session, share).tokens_per_round for drafts in arms().values()]
            cells = " | ".join(f"{value:.2f}" for value in found)
            lines.append(f"| {name} | {num_tokens:,} | {100 * share:.0f} % | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.drafters.agent_session")
    parser.add_argument("bundles", type=Path, help="folder that `hat split` wrote")
    chosen = parser.parse_args()
    tokenizer = load_tokenizer(chosen.bundles / "device")
    print(table(lambda text: tokenizer.encode(text, add_special_tokens=False)))


if __name__ == "__main__":
    main()
