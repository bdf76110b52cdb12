"""Whether greedy arms said the same, request by request, within each pass."""

from dataclasses import dataclass

from bench.report.groups import LIVE, ArmResult, Group


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many answers were compared with those of `reference`, and how many differ."""

    reference: str
    num_compared: int
    num_different: int


def agreements(group: Group) -> dict[str, Agreement]:
    """By arm, the reference itself left out; empty when there is nothing to compare.

    Sampled texts are not compared, nor are those of a simulation, which has none.

    The reference is the first arm with an answer. Arms without an answer of the same number in
    the same pass are left out.
    """
    if group.workload.temperature > 0 or group.kind != LIVE:
        return {}
    reference = next((result for result in group.arms if result.answered), None)
    if reference is None:
        return {}
    expected = _answers(reference)
    found: dict[str, Agreement] = {}
    for result in group.arms:
        answers = _answers(result)
        common = answers.keys() & expected.keys()
        if result is not reference and common:
            different = sum(answers[key] != expected[key] for key in common)
            found[result.arm] = Agreement(reference.arm, len(common), different)
    return found


def _answers(result: ArmResult) -> dict[tuple[int, int, int], str]:
    return {
        (*each.pass_key, request.number): request.output_sha256
        for each in result.placed
        for request in each.cell.requests
        if request.error is None and request.emissions
    }
