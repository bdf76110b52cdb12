"""Medians of a run in a few lines, for the terminal."""

from collections.abc import Sequence

from bench.measures import accept_length, percentile, tbt_s, ttft_s
from bench.records import Cell, RequestRecord


def overview(cells: Sequence[Cell]) -> str:
    """By setting and arm: TTFT, TBT, tokens per round, bytes per token, the cloud's step."""
    lines = []
    settings = dict.fromkeys((cell.model.name, cell.setting) for cell in cells)
    for model, setting in settings:
        found = [cell for cell in cells if (cell.model.name, cell.setting) == (model, setting)]
        first = found[0].link
        rtt_ms = 1e3 * (first.measured_rtt_s or {}).get("p50", 0.0)
        lines += ["", f"{model}, {setting} ({first.kind}, measured RTT {rtt_ms:.1f} ms)"]
        lines += [_HEAD]
        lines += [_row(arm, found) for arm in dict.fromkeys(cell.arm for cell in found)]
    return "\n".join(lines[1:])


_HEAD = (
    f"{'arm':20} {'TTFT p50 ms':>12} {'TBT p50 ms':>11} {'TBT mean ms':>12} "
    f"{'per round':>10} {'up B/token':>11} {'down B/token':>13} {'cloud step ms':>14}"
)


def _row(arm: str, cells: Sequence[Cell]) -> str:
    own = [cell for cell in cells if cell.arm == arm]
    requests = [one for cell in own for one in cell.requests if one.error is None]
    firsts = [value for one in requests if (value := ttft_s(one)) is not None]
    gaps = [value for one in requests for value in tbt_s(one)]
    steps = [value for cell in own for value in cell.cloud_step_s]
    return (
        f"{arm:20} {_ms(firsts):>12} {_ms(gaps):>11} {_mean_ms(gaps):>12} "
        f"{_number(accept_length(requests)):>10} {_per_token(requests, 'bytes_up'):>11} "
        f"{_per_token(requests, 'bytes_down'):>13} {_mean_ms(steps):>14}"
    )


def _ms(values: Sequence[float]) -> str:
    return f"{1e3 * percentile(values, 50):.1f}" if values else "-"


def _mean_ms(values: Sequence[float]) -> str:
    return f"{1e3 * sum(values) / len(values):.2f}" if values else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _per_token(requests: Sequence[RequestRecord], name: str) -> str:
    num_tokens = sum(one.output_tokens for one in requests)
    return f"{sum(getattr(one, name) for one in requests) / num_tokens:.0f}" if num_tokens else "-"
