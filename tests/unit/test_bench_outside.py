import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from bench.live.asking import Ask
from bench.live.processes import LiveError
from bench.outside.aiperf import Aiperf
from bench.outside.comparing import Latency, latency_of, measures_s, row, server_sums
from tests.support.bench_runs import made_up_request

METRICS = """\
# TYPE hat_time_to_first_token_seconds histogram
hat_time_to_first_token_seconds_bucket{le="1.0",model_name="m"} 4.0
hat_time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 4.0
hat_time_to_first_token_seconds_count{model_name="m"} 4.0
hat_time_to_first_token_seconds_sum{model_name="m"} 2.0
# TYPE hat_request_time_per_output_token_seconds histogram
hat_request_time_per_output_token_seconds_count{model_name="m"} 4.0
hat_request_time_per_output_token_seconds_sum{model_name="m"} 0.4
"""


ASKS = [Ask(number=number, prompt=f"text {number}", max_tokens=9) for number in range(2)]


def aiperf_in(folder: Path) -> Aiperf:
    return Aiperf(Path("aiperf"), folder, folder, "m")


def record(started_ns: int, ttft_ms: float, error: object = None) -> str:
    metrics = {
        "time_to_first_token": {"value": ttft_ms, "unit": "ms"},
        "inter_token_latency": {"value": 2.0, "unit": "ms"},
        "output_sequence_length": {"value": 9, "unit": "tokens"},
        "inter_chunk_latency": {"value": [1.0, 3.0], "unit": "ms"},
    }
    metadata = {"request_start_ns": started_ns, "benchmark_phase": "profiling"}
    return json.dumps({"metadata": metadata, "metrics": metrics, "error": error}) + "\n"


def test_both_clients_mean_the_same_by_the_time_between_tokens() -> None:
    ours = latency_of(made_up_request([(0.5, 1), (0.6, 1), (0.9, 3), (1.1, 2)]))
    assert ours.ttft_s == 0.5
    assert ours.output_tokens == 7
    assert ours.itl_s == pytest.approx((1.1 - 0.5) / (7 - 1))


def test_a_request_that_failed_has_no_latency() -> None:
    with pytest.raises(LiveError, match="cloud_lost"):
        latency_of(made_up_request([(0.5, 1), (0.6, 1)], error="cloud_lost"))
    with pytest.raises(LiveError, match="fewer than two pieces"):
        latency_of(made_up_request([(0.5, 4)]))


def test_clients_agree_when_they_differ_by_less_than_one_does_from_itself() -> None:
    both = "102.00 (100.00 to 104.00) | 105.00 (101.00 to 106.00)"
    near = row("TTFT", [0.100, 0.104, 0.102], [0.101, 0.106, 0.105])
    assert near == f"| TTFT | {both} | +2.00 | 4.00 | yes |"
    assert row("TTFT", [0.100, 0.101], [0.110, 0.111]).endswith("| no |")
    assert row("TTFT", [0.100, 0.101], [0.090, 0.091]).endswith("| no |")


def test_what_a_client_adds_to_the_endpoints_times_counts_its_warm_up() -> None:
    measured = measures_s([Latency(0.5, 0.04, 9), Latency(0.1, 0.02, 9)], 1, 0.2, 0.01)
    assert measured["TTFT, mean"] == pytest.approx(0.1)
    assert measured["TTFT beyond the endpoint's"] == pytest.approx(0.1)
    assert measured["ITL beyond the endpoint's"] == pytest.approx(0.02)


def test_the_endpoints_sums_are_over_all_of_its_models() -> None:
    assert server_sums("") == (0, 0, 0)
    assert server_sums(METRICS) == pytest.approx((4, 2.0, 0.4))


def test_aiperf_is_asked_for_the_same_texts_of_the_same_length(tmp_path: Path) -> None:
    command = aiperf_in(tmp_path).command("http://127.0.0.1:1", ASKS, 1)
    given = dict(pairwise(command))
    prompts = Path(given["--input-file"]).read_text().splitlines()
    assert [json.loads(line)["text"] for line in prompts] == ["text 0", "text 1"]
    extra = json.loads(given["--extra-inputs"])
    assert (extra["max_tokens"], extra["ignore_eos"], extra["temperature"]) == (9, True, 0)
    assert Path(given["--tokenizer"]).is_absolute()


def test_aiperf_looks_for_its_turn_as_often_as_told(tmp_path: Path) -> None:
    aiperf = aiperf_in(tmp_path)
    assert "--request-rate" not in aiperf.command("http://127.0.0.1:1", ASKS, 1)
    paced = replace(aiperf, looks_per_s=50).command("http://127.0.0.1:1", ASKS, 1)
    assert paced[paced.index("--request-rate") + 1] == "50"


def test_aiperfs_records_are_read_in_the_order_of_the_requests(tmp_path: Path) -> None:
    lines = [record(300, 30.0), record(100, 10.0), record(200, 20.0)]
    (tmp_path / "profile_export.jsonl").write_text("".join(lines))
    found = aiperf_in(tmp_path).latencies()
    assert [each.ttft_s for each in found] == pytest.approx([0.01, 0.02, 0.03])
    assert found[0].itl_s == pytest.approx(0.002)


def test_aiperfs_failures_are_told(tmp_path: Path) -> None:
    with pytest.raises(LiveError, match="found none"):
        aiperf_in(tmp_path).latencies()
    lines = [record(100, 10.0), record(200, 20.0, {"code": 503})]
    (tmp_path / "profile_export.jsonl").write_text("".join(lines))
    with pytest.raises(LiveError, match="1 of 2"):
        aiperf_in(tmp_path).latencies()
