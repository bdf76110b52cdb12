"""The results of `hat verify` as lines to read."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from hat.verify.compare import (
    MAX_LOGPROB_ERROR,
    Continuation,
    Difference,
    Distances,
    Reference,
    first_difference,
    logprob_errors,
)
from hat.verify.prompts import Prompt

Verdict = Literal["ok", "FAILED", "shown"]
Decode = Callable[[Sequence[int]], str]

_MAX_DETAILS = 10
_NAME_WIDTH = 10
_VERDICT_WIDTH = 8


@dataclass(frozen=True, slots=True)
class Check:
    """One line and its details. `shown` is a result that says how far apart, not right or wrong."""

    name: str
    verdict: Verdict
    line: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GreedyCase:
    """What both models made of one prompt."""

    prompt: Prompt
    reference: Reference
    came: Continuation

    def place(self, index: int) -> str:
        """The index-th token of the answer, in words."""
        position = len(self.prompt.ids) + index
        return f"prompt {self.prompt.number}, token {index + 1} (position {position})"


def render(checks: Sequence[Check]) -> str:
    """All checks, aligned."""
    lines: list[str] = []
    for check in checks:
        lines.append(f"  {check.name:{_NAME_WIDTH}}{check.verdict:{_VERDICT_WIDTH}}{check.line}")
        indent = " " * (2 + _NAME_WIDTH + _VERDICT_WIDTH)
        shown = check.details[:_MAX_DETAILS]
        lines += [indent + detail for detail in shown]
        if len(check.details) > len(shown):
            lines.append(f"{indent}and {len(check.details) - len(shown)} more")
    return "\n".join(lines)


def passed(checks: Sequence[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.verdict != "FAILED" for check in checks)


def ends_check(
    expected: Collection[int], came: Collection[int], name: Callable[[int], str]
) -> Check:
    """Whether the same tokens end a text on both sides."""
    missing, surplus = set(expected) - set(came), set(came) - set(expected)
    if missing or surplus:
        details = [f"{name(token)} ends a text of the unsplit model only" for token in missing]
        details += [f"{name(token)} ends a text of the split model only" for token in surplus]
        return Check("ends", "FAILED", "other tokens end a text", tuple(sorted(details)))
    names = ", ".join(name(token) for token in sorted(expected)) or "no token"
    return Check("ends", "ok", f"a text ends with {names}, as transformers reads the files")


def greedy_check(
    cases: Sequence[GreedyCase], num_too_long: int, decode: Decode, is_exact: bool
) -> list[Check]:
    """Ids, then log probabilities where the ids agree."""
    found = [(case, first_difference(case.reference, case.came.ids)) for case in cases]
    differing = [(case, difference) for case, difference in found if difference is not None]
    num_ties = sum(difference.is_tie for _, difference in differing)
    num_wrong = len(differing) - num_ties
    num_tokens = sum(len(case.reference.ids) for case in cases)
    smallest = min(min(case.reference.margins) for case in cases)
    line = f"{counted(len(cases), 'prompt')}, {counted(num_tokens, 'token')}: "
    line += f"{counted(num_wrong, 'prompt')} with other ids" if num_wrong else "the same ids"
    line += f"; {counted(num_ties, 'tie')}; smallest margin of two logits {smallest:.2g}"
    if num_too_long:
        line += f"; {counted(num_too_long, 'prompt')} left out, too long"
    details = tuple(_described(case, difference, decode) for case, difference in differing)
    greedy = Check("greedy", verdict(not num_wrong, is_exact), line, details)
    return [greedy, _logprobs(cases, is_exact)]


def sampled_check(found: Distances, num_texts: int, is_exact: bool) -> Check:
    """Whether drawn texts are distributed as the unsplit model's."""
    line = (
        f"{found.num_draws} draws of {num_texts} texts: distance to an unsplit run "
        f"{found.split:.3f}; two unsplit runs {found.unsplit:.3f}, "
        f"99.9 % of them below {found.noise_floor:.3f}"
    )
    return Check("sampled", verdict(found.are_alike, is_exact), line)


def verdict(is_right: bool, is_exact: bool) -> Verdict:
    """What a check ends with; where nothing is exact it only shows."""
    if not is_exact:
        return "shown"
    return "ok" if is_right else "FAILED"


def _described(case: GreedyCase, difference: Difference, decode: Decode) -> str:
    right, came = (_token(token, decode) for token in (difference.expected, difference.came))
    kind = "a tie, " if difference.is_tie else ""
    return (
        f"{case.place(difference.index)}: unsplit {right}, split {came}; "
        f"{kind}margin {difference.margin:.3g}"
    )


def _token(token: int | None, decode: Decode) -> str:
    return "the end" if token is None else f"{token} {decode([token])!r}"


def _logprobs(cases: Sequence[GreedyCase], is_exact: bool) -> Check:
    largest, details = 0.0, []
    for case in cases:
        errors = logprob_errors(case.reference, case.came)
        largest = max([largest, *errors])
        wrong = [index for index, error in enumerate(errors) if not error <= MAX_LOGPROB_ERROR]
        for index in wrong[:1]:
            right, came = case.reference.logprobs[index], case.came.logprobs[index]
            details.append(f"{case.place(index)}: unsplit {right:.4f}, split {came:.4f}")
    if not is_exact:
        return Check("logprobs", "shown", f"largest difference {largest:.2g}")
    line = f"largest difference {largest:.2g}, allowed {MAX_LOGPROB_ERROR:g}"
    return Check("logprobs", verdict(not details, is_exact), line, tuple(details))


def counted(count: int, what: str) -> str:
    """A number of things, in words."""
    return f"{count} {what}{'' if count == 1 else 's'}"
