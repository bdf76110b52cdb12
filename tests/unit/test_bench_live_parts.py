"""What a live run is made of, without processes."""

import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from bench.arms import ARMS, NO_ADAPTER, Arm, find_arm
from bench.link.spec import LinkSpec, parse_link_spec
from bench.live.client import body_of
from bench.live.cloud import Cloud
from bench.live.event_reader import Answer
from bench.live.overview import different_texts, overview
from bench.live.plan import (
    MOST_WHOLE_MODELS,
    LivePlan,
    Setting,
    arms_for,
    drafter_note,
    in_turn,
    is_chat,
    load_for,
    loads_of,
    model_record,
    prompts_for,
)
from bench.records import Cell, RequestRecord
from cloud_server.daemon.daemon import STEP_LINE
from tests.support.bench_runs import LINK, MODEL, WORKLOAD
from tests.support.stack import split_for_serving
from tests.support.tokenizers import MODEL_FOLDER

FIGURES = {
    "rounds": 2,
    "drafted_by_position": [2, 1],
    "accepted_by_position": [1, 0],
    "bytes_up": 900,
    "bytes_down": 700,
    "chunk_tokens": [4, 2],
    "seconds": {"total": 0.5},
    "pipelined_rows": 3,
    "stale_rows": 2,
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live") / "m1"
    split_for_serving(MODEL_FOLDER, folder, 1)
    return folder


def event(**fields: object) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n"


def usage(num_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 6, "completion_tokens": num_tokens, "total_tokens": 6 + num_tokens}


def test_an_answer_knows_how_many_tokens_each_piece_held() -> None:
    answer = Answer()
    answer.take(event(choices=[{"text": " a"}], usage=usage(1)), 0.25)
    answer.take(b": ping\n", 0.3)
    answer.take(b"\n", 0.3)
    answer.take(event(choices=[{"text": " big dog"}], usage=usage(4)), 0.5)
    answer.take(event(choices=[], hat=FIGURES), 0.75)
    answer.take(b"data: [DONE]\n", 0.75)
    record = answer.record(number=3, device=1, arrival_s=2.0)
    assert record.emissions == [(0.25, 1), (0.5, 3)]
    assert (record.prompt_tokens, record.output_tokens) == (6, 4)
    assert record.output_sha256 == hashlib.sha256(b" a big dog").hexdigest()
    assert (record.rounds, record.chunk_tokens) == (2, [4, 2])
    assert (record.pipelined_rows, record.stale_rows) == (3, 2)
    assert record.error is None


def test_pieces_of_a_chats_answer_are_those_of_a_completion() -> None:
    answer = Answer()
    answer.take(event(choices=[{"delta": {"role": "assistant", "content": ""}}]), 0.1)
    answer.take(event(choices=[{"delta": {"content": " a"}}], usage=usage(1)), 0.25)
    answer.take(event(choices=[{"delta": {}}], usage=usage(1)), 0.3)
    record = answer.record(0, 0, 0.0)
    assert record.emissions == [(0.25, 1)]
    assert record.output_sha256 == hashlib.sha256(b" a").hexdigest()


def test_an_error_in_a_stream_is_kept_by_its_code() -> None:
    answer = Answer()
    answer.take(event(error={"code": "cloud_unavailable", "message": "gone"}), 0.5)
    assert answer.record(0, 0, 0.0).error == "cloud_unavailable"


def test_bytes_are_those_that_cross_the_link() -> None:
    answer = Answer(http_bytes_up=40)
    line = event(choices=[], hat=FIGURES)
    answer.take(line, 0.5)
    assert answer.crossed_bytes("split") == (900, 700)
    assert answer.crossed_bytes("cloud") == (40, len(line))
    assert answer.crossed_bytes("device") == (0, 0)


def test_a_step_in_the_clouds_log_is_found() -> None:
    message = STEP_LINE % (37, 3, 0.012345)
    line = {"time": "2026-11-20T13:00:01.500+00:00", "level": "debug", "message": message}
    cloud = Cloud(1)
    cloud.take(msgspec.json.encode(line))
    [step] = cloud.steps
    assert (step.num_tokens, step.seconds) == (37, 0.012345)
    assert step.ended_unix_s % 60 == 1.5
    assert cloud.engine is None


@pytest.mark.parametrize("line", [b"", b"Traceback", b"{", b'{"message": "step of"}', b"[1]"])
def test_other_lines_are_no_steps(line: bytes) -> None:
    cloud = Cloud(1)
    cloud.take(line)
    assert (cloud.steps, cloud.engine) == ([], None)


def test_every_pass_begins_with_another_arm_and_has_all() -> None:
    orders = [[arm.name for arm in in_turn(ARMS, repeat)] for repeat in range(len(ARMS))]
    assert len({order[0] for order in orders}) == len(ARMS)
    assert {frozenset(order) for order in orders} == {frozenset(arm.name for arm in ARMS)}


def test_an_arm_is_left_out_where_its_part_or_the_room_is_missing(bundles: Path) -> None:
    whole, heads = Arm("whole", "", "device"), Arm("heads", "", needs="heads.json")
    there = Arm("there", "", needs="hat.json")
    assert arms_for(bundles, [whole, heads, there], 1) == (whole, there)
    assert arms_for(bundles, [whole, heads, there], MOST_WHOLE_MODELS + 1) == (there,)


def test_requests_go_round_the_devices_and_the_seed_chooses_them(bundles: Path) -> None:
    workload = msgspec.structs.replace(WORKLOAD, num_devices=3, num_requests=7)
    setting = Setting(bundles, LinkSpec(), workload, ARMS)
    loads = loads_of(setting, seed=4)
    assert [[ask.number for ask in load.asks] for load in loads] == [[0, 3, 6], [1, 4], [2, 5]]
    assert loads_of(setting, seed=4) == loads
    assert loads_of(setting, seed=5) != loads
    assert LivePlan((setting,), repeats=2).num_requests == 2 * 7 * len(ARMS)


def test_a_penalty_is_asked_for_and_said(bundles: Path) -> None:
    workload = msgspec.structs.replace(WORKLOAD, num_requests=1, repetition_penalty=1.1)
    setting = Setting(bundles, LinkSpec(), workload, ARMS)
    [load] = loads_of(setting, seed=0)
    assert body_of(load.asks[0], load)["repetition_penalty"] == 1.1
    assert setting.name == f"{replace(setting, workload=WORKLOAD).name}, repetition penalty 1.1"


def test_a_long_warm_up_is_for_arms_that_learn_what_to_draft(bundles: Path) -> None:
    setting = Setting(bundles, LinkSpec(), WORKLOAD, ARMS, num_warm_up=8, warm_up_tokens=70)
    [load] = loads_of(setting, seed=0)
    assert [ask.max_tokens for ask in load.warm_up] == [70] * 8
    assert [ask.number for ask in load.warm_up] == [0, 1, 2, 3, 4, 5, 0, 1]
    others = loads_of(replace(setting, takes_turns=True), seed=0)[0]
    assert others.asks == load.asks
    assert [ask.number for ask in others.warm_up] == [*range(6, 14)], "of texts that do not count"
    assert load_for(find_arm("hat"), load) == load
    plain = load_for(find_arm("u-shape"), load)
    assert [ask.max_tokens for ask in plain.warm_up] == [12, 12]
    assert plain.asks == load.asks


def test_a_prompt_leaves_room_for_the_answer(bundles: Path) -> None:
    workload = msgspec.structs.replace(
        WORKLOAD, name="books:400", num_requests=2, max_output_tokens=112
    )
    [load] = loads_of(Setting(bundles, LinkSpec(), workload, ARMS), seed=0)
    assert len(load.asks) == 2


def test_questions_are_messages_where_the_model_has_a_chat_template(
    bundles: Path, tmp_path: Path
) -> None:
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "chat_template.jinja").write_text("{{ messages }}")
    assert (prompts_for(tmp_path), prompts_for(bundles)) == ("spec-bench", "tinystories")
    assert is_chat(tmp_path, "spec-bench")
    assert is_chat(tmp_path, "spec-bench:chat,code")
    assert not is_chat(tmp_path, "books:40")
    assert not is_chat(bundles, "spec-bench")


def test_an_arm_that_would_draft_by_an_adapter_says_that_there_is_none(bundles: Path) -> None:
    assert drafter_note(bundles, find_arm("hat")) == (NO_ADAPTER,)
    assert drafter_note(bundles, find_arm("u-shape")) == ()
    assert drafter_note(bundles, find_arm("cloud-only")) == ()


def test_the_model_is_known_by_its_bundles(bundles: Path) -> None:
    record = model_record(bundles)
    assert (record.name, record.num_layers, record.num_input_layers) == ("stories260k", 5, 1)
    assert record.has_real_weights
    assert (record.hidden_size, record.intermediate_size, record.kv_size) == (64, 172, 32)


def test_a_settings_name_says_what_is_not_beside_it(bundles: Path) -> None:
    link = parse_link_spec("up=20mbit,rtt=40ms")
    plain = Setting(bundles, link, WORKLOAD, ARMS)
    poisson = {"arrivals": "poisson", "requests_per_s": 2.5}
    load = msgspec.structs.replace(WORKLOAD, num_devices=4, temperature=0.8, **poisson)
    many = Setting(bundles, link, load, ARMS)
    assert plain.name == "tinystories x 24, up=20mbit,rtt=40ms"
    assert many.name == f"{plain.name}, 4 devices, poisson 2.5/s, temperature 0.8"
    narrow = Setting(bundles, link, msgspec.structs.replace(load, top_p=0.9), ARMS)
    assert narrow.name == f"{many.name}, top_p 0.9"


def _cell(arm: str, *texts: str, error: str | None = None) -> Cell:
    requests = [
        RequestRecord(
            number=number,
            device=0,
            prompt_tokens=6,
            arrival_s=0.0,
            emissions=[(0.5, 1), (0.75, 3)],
            output_sha256=text,
            error=error,
        )
        for number, text in enumerate(texts)
    ]
    return Cell(
        arm=arm,
        setting="one",
        repeat=0,
        model=MODEL,
        link=LINK,
        workload=WORKLOAD,
        requests=requests,
    )


def test_another_text_is_found_and_named() -> None:
    cells = [_cell("u-shape", "x", "y"), _cell("hat", "x", "z"), _cell("hat", "x", "y")]
    [different] = different_texts(cells)
    assert different == "hat and u-shape gave different texts for prompt 1 (one, pass 0)"


def test_a_failed_answer_is_no_other_text() -> None:
    failed = _cell("hat", "z", error="cloud_unavailable")
    assert different_texts([_cell("u-shape", "x"), failed]) == []


def test_the_overview_has_a_line_for_every_arm() -> None:
    text = overview([_cell("u-shape", "x"), _cell("hat", "x")])
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["u-shape", "hat"]
