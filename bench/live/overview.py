"""What a run says in the terminal: medians in a few lines, and texts that should be the same."""

from collections.abc import Iterable, Sequence

from bench import measures
from bench.records import Cell

_HEAD = (
    f"{'arm':20} {'TTFT p50 ms':>12} {'TBT p50 ms':>11} {'TBT mean ms':>12} "
    f"{'per round':>10} {'up B/token':>11} {'down B/token':>13} {'cloud step ms':>14}"
)


def overview(cells: Sequence[Cell]) -> str:
    """By setting and arm: TTFT, TBT, tokens per round, bytes per token, the cloud's step."""
    lines = []
    settings = dict.fromkeys((cell.model.name, cell.setting) for cell in cells)
    for model, setting in settings:
        found = [cell for cell in cells if (cell.model.name, cell.setting) == (model, setting)]
        first = found[0].link
        rtt_ms = 1e3 * (first.measured_rtt_s or {}).get("p50", 0.0)
        lines += ["", f"{model}, {setting} ({first.kind}, measured RTT {rtt_ms:.1f} ms)", _HEAD]
        for arm in dict.fromkeys(cell.arm for cell in found):
            lines.append(_row(arm, [cell for cell in found if cell.arm == arm]))
    return "\n".join(lines[1:])


def _row(arm: str, cells: Sequence[Cell]) -> str:
    requests = [one for cell in cells for one in cell.requests if one.error is None]
    firsts = [value for one in requests if (value := measures.ttft_s(one)) is not None]
    gaps = [value for one in requests for value in measures.tbt_s(one)]
    steps = [value for cell in cells for value in cell.cloud_step_s]
    up, down = measures.bytes_up_per_token(requests), measures.bytes_down_per_token(requests)
    return (
        f"{arm:20} {_ms(firsts):>12} {_ms(gaps):>11} {_mean_ms(gaps):>12} "
        f"{_number(measures.accept_length(requests), 2):>10} {_number(up, 0):>11} "
        f"{_number(down, 0):>13} {_mean_ms(steps):>14}"
    )


def _ms(values: Sequence[float]) -> str:
    return f"{1e3 * measures.percentile(values, 50):.1f}" if values else "-"


def _mean_ms(values: Sequence[float]) -> str:
    return f"{1e3 * sum(values) / len(values):.2f}" if values else "-"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def different_texts(cells: Iterable[Cell]) -> list[str]:
    """Answers that are not what the first arm said, setting by setting, a sentence about each.

    With temperature 0 the answer follows from the prompt; else from prompt and seed, since noise
    belongs to positions. Answers that failed are left out.
    """
    first: dict[tuple[str, str, int], tuple[str, str]] = {}
    found = []
    for cell in cells:
        for request in cell.requests:
            if request.error is not None:
                continue
            key = (cell.setting, cell.model.fingerprint, request.number)
            arm, sha256 = first.setdefault(key, (cell.arm, request.output_sha256))
            if sha256 != request.output_sha256:
                text = f"{cell.arm} and {arm} gave different texts for prompt {request.number}"
                found.append(f"{text} ({cell.setting}, pass {cell.repeat})")
    return found
