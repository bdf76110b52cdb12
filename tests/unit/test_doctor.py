"""What `hat doctor` makes of its measurements: rates, tables, what to expect, and advice."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.draft_cost import DraftCost
from adapters.storage import TrainingFigures
from chunking.cost import LinearTime
from device_runtime.config import DeviceConfig
from device_runtime.engines.engine import DraftLimits
from hat.doctor import pauses
from hat.doctor.advice import Drafter, foretell
from hat.doctor.cloud import Check, CloudFindings, CloudStep, LinkFindings
from hat.doctor.device import DeviceFindings, Memory, WeightsTimes
from hat.doctor.foretell import Choice, Surroundings, card_drafts
from hat.doctor.rates import bytes_per_s_of_transfer, train_bytes_per_s, transfer_s

CONFIG = DeviceConfig(bundle=Path())
LAYERS, HEAD = LinearTime(0.001, 0.0001), LinearTime(0.005, 0.0001)
CLOUD = CloudFindings(
    url="ws://cloud",
    steps=tuple(CloudStep(rows, 0.01 + 0.0001 * rows) for rows in (1, 5, 64, 256)),
    context=LinearTime(0.0, 0.0),
    queue_s=0.0,
    row_format="BF16",
    row_bytes=1152,
    max_context_tokens=8192,
    max_frame_tokens=512,
)
LINK = LinkFindings(0.02, 0.0, 625_000.0, 2_500_000.0, None, None)
HERE = Surroundings(LINK, CLOUD, most_tokens=2048)
NOW = Choice(LAYERS, HEAD)
DEVICE = DeviceFindings(
    processor="a processor",
    num_threads=1,
    model_name="a model",
    num_layers=30,
    num_input_layers=2,
    num_output_layers=0,
    max_context_tokens=8192,
    engine="onnx",
    chosen="float32",
    draft_limits=None,
    weights=(WeightsTimes("float32", LAYERS, HEAD, None, 1000),),
    memory=Memory(1, 1, 1),
)
FIGURES = TrainingFigures(
    steps=1,
    corpus_tokens=1,
    passes=1.0,
    loss=1.0,
    training_s=1.0,
    seed=0,
    tokens_per_round=2.4,
    stopped_tokens_per_round=2.2,
    cost=DraftCost(),
)
LIMITS = DraftLimits(0.5, 6)
NO_ADAPTER = Drafter("suffix", None)


SLOW = replace(LINK, congestion_control="cubic", is_slow_after_pause=True)


def advice_of(device=DEVICE, here=HERE, drafter=NO_ADAPTER, config=CONFIG):
    return {each.about: each for each in foretell(config, device, here, drafter).advice}


@given(
    num_bytes=st.integers(1, 10**7),
    bytes_per_s=st.floats(1e3, 1e9),
    round_trip_s=st.floats(0.0, 0.5),
)
def test_a_rate_is_found_again_in_how_long_its_transfer_took(num_bytes, bytes_per_s, round_trip_s):
    seconds = transfer_s(num_bytes, bytes_per_s, round_trip_s)
    found = bytes_per_s_of_transfer(num_bytes, seconds, round_trip_s)
    # A transfer of few bytes over a long way looks the same at many rates.
    assert found is None or transfer_s(num_bytes, found, round_trip_s) == pytest.approx(
        seconds, rel=1e-6
    )


def test_a_transfer_that_took_no_time_tells_no_rate():
    assert bytes_per_s_of_transfer(1000, 0.0, 0.02) is None
    assert bytes_per_s_of_transfer(1000, -0.001, 0.02) is None
    assert train_bytes_per_s([(1.0, 500), (1.0, 500)]) is None
    assert train_bytes_per_s([(1.0, 500)]) is None


def test_a_train_tells_the_rate_whatever_its_first_frame_waited_for():
    arrivals = [(10.0, 900), (10.5, 1000), (11.0, 1000)]
    assert train_bytes_per_s(arrivals) == pytest.approx(2000)


def test_a_token_takes_what_its_parts_take():
    parts_s = LAYERS.of(1) + HEAD.of(1) + 0.0101 + LINK.delay_s
    under_way_s = 1152 / 625_000 + 1152 / 2_500_000
    outlook = HERE.outlook(NOW)
    assert outlook.speed.token_s == pytest.approx(parts_s + under_way_s, rel=0.05)
    assert outlook.speed.tokens_per_round == 1.0


def test_a_prompt_takes_at_least_what_its_slowest_stage_takes():
    outlook = replace(HERE, most_tokens=8192).outlook(NOW)
    assert [each.num_tokens for each in outlook.prompts] == [100, 1000, 4000]
    for prompt in outlook.prompts:
        upload_s = prompt.num_tokens * 1152 / 625_000
        assert upload_s < prompt.ttft_s < 1.3 * upload_s + 0.2
        assert sum(prompt.chunks) == prompt.num_tokens


def test_prompts_beyond_the_context_are_not_foretold():
    assert replace(HERE, most_tokens=2048).prompt_sizes == (100, 1000)
    assert replace(HERE, most_tokens=64).prompt_sizes == ()


def test_what_the_check_took_beyond_its_parts_is_added_to_every_piece():
    slower = HERE.with_check(NOW, Check(32, 17, 0.1, HERE.outlook(NOW).speed.token_s + 0.01, 0.002))
    more_s = slower.outlook(NOW).speed.token_s - HERE.outlook(NOW).speed.token_s
    assert more_s == pytest.approx(0.01, abs=0.002)
    assert HERE.with_check(NOW, Check(32, 17, 0.1, 0.001, 0.0)).piece_s == 0.0


def test_an_adapter_brings_about_the_tokens_per_round_of_its_card():
    drafts = card_drafts(FIGURES, LIMITS, 0.001)
    speed = HERE.outlook(replace(NOW, drafts=drafts)).speed
    assert 1.6 < speed.tokens_per_round < 2.8
    assert speed.token_s < HERE.outlook(NOW).speed.token_s


def test_layers_are_advised_that_cost_little_and_others_are_told_with_their_price():
    cheap = advice_of()
    assert cheap["m"].what == "4 input layers"
    assert cheap["m"].how == "hat split MODEL --input-layers 4 --out DIR"

    slow = replace(
        DEVICE, weights=(WeightsTimes("float32", LinearTime(0.05, 0.01), HEAD, None, 1),)
    )
    dear = advice_of(slow)
    assert dear["m"].what == "keep 2 input layers"
    assert "more per token" in dear["m"].reason
    assert dear["m"].how is None


def test_an_output_layer_is_advised_where_rows_come_down_fast():
    assert advice_of()["k"].how == "hat split MODEL --output-layers 1 --out DIR"
    thin = replace(HERE, link=replace(LINK, down_bytes_per_s=100_000.0))
    assert advice_of(here=thin)["k"].how is None


def test_weights_that_change_answers_are_named_and_exact_ones_are_preferred():
    fast = WeightsTimes("int8", LinearTime(0.0, 0.0001), LinearTime(0.001, 0.0), None, 1)
    exact = DEVICE.weights[0]
    both = replace(DEVICE, weights=(exact, fast))
    assert advice_of(both)["weights"].what == "keep float32"
    assert "int8 changes answers" in advice_of(both)["weights"].reason

    chosen = replace(both, chosen="int8", weights=(exact, replace(fast, head=HEAD, layers=LAYERS)))
    assert advice_of(chosen)["weights"].how == "--weights float32"

    head = LinearTime(0.2, 0.0)
    slow = replace(both, weights=(replace(exact, head=head), fast))
    assert advice_of(slow)["weights"].how == "--weights int8"


def test_a_bundle_without_an_adapter_is_told_how_to_get_one():
    assert advice_of()["drafter"].how == "hat adapter train BUNDLE --text FILE"


def test_an_adapter_is_kept_while_its_drafts_pay():
    with_adapter = Drafter("adapter", FIGURES)
    times = replace(DEVICE.weights[0], draft_token_s=0.002)
    kept = advice_of(replace(DEVICE, weights=(times,), draft_limits=LIMITS), drafter=with_adapter)[
        "drafter"
    ]
    assert kept.what == "keep the adapter"
    assert kept.how is None
    times = replace(times, draft_token_s=1.0)
    dropped = advice_of(
        replace(DEVICE, weights=(times,), draft_limits=LIMITS), drafter=with_adapter
    )["drafter"]
    assert dropped.how is None or dropped.how == "--drafter suffix"


def test_prompts_sent_whole_are_cut_again():
    config = replace(CONFIG, chunking="fixed", chunk_tokens=0)
    chunks = advice_of(config=config)["chunks"]
    assert chunks.how == "--chunking adaptive"
    assert advice_of()["chunks"].what == "keep adaptive"


def test_rows_of_32_bits_are_noticed():
    wide = replace(CLOUD, row_format="FP32", row_bytes=2304)
    assert "--wire-dtype" in advice_of(here=replace(HERE, cloud=wide))["rows"].how
    assert "rows" not in advice_of()


def test_a_pause_costs_what_the_ramp_of_its_link_costs():
    rate, delay_s = 2_500_000.0, 0.08
    link = replace(SLOW, up_bytes_per_s=rate, delay_s=delay_s)
    # 10, 20 and 40 segments, each of which takes less than the round trip that it waits for.
    expected_s = sum(delay_s - 14_480 * windows / rate for windows in (1, 2, 4))
    assert pauses.pause_s(link, 160_000) == pytest.approx(expected_s)
    assert pauses.pause_s(replace(link, is_slow_after_pause=False), 160_000) == 0.0
    assert pauses.pause_s(replace(link, is_slow_after_pause=None), 160_000) == 0.0
    told = pauses.told(link, CLOUD)
    assert told == (
        "after a pause 160 kB up take 199 ms longer and a prompt of 1,000 tokens 233 ms: "
        "cubic begins slowly"
    )


def test_why_a_pause_costs_nothing_is_said():
    warm = replace(SLOW, is_slow_after_pause=False)
    assert pauses.told(warm, CLOUD).endswith("up: net.ipv4.tcp_slow_start_after_idle is 0 here")
    assert pauses.told(replace(warm, congestion_control="bbr"), CLOUD).endswith("up: bbr")
    assert "cannot be seen" in pauses.told(LINK, CLOUD)


def test_what_mends_a_pause_is_advised_where_it_costs_something():
    link = replace(SLOW, up_bytes_per_s=12_500_000.0, delay_s=0.08)
    here = replace(HERE, link=link)
    setting = advice_of(here=here)["pause"]
    assert setting.how == "sysctl -w net.ipv4.tcp_slow_start_after_idle=0"
    assert "cloud" not in setting.reason
    chosen = advice_of(here=replace(here, link=replace(link, can_be_warm=True)))["pause"]
    assert chosen.how == "--congestion-control bbr"
    both = advice_of(replace(DEVICE, num_output_layers=1), here)["pause"]
    assert "on the cloud's machine as well" in both.reason
    assert "pause" not in advice_of(here=replace(here, link=replace(link, delay_s=0.001)))
    warm = replace(here, link=replace(link, is_slow_after_pause=False))
    assert "pause" not in advice_of(here=warm)
