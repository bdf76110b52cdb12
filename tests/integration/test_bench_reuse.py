"""The bench of reuse holds its conversations over a real link, and counts what went up."""

import sys
from pathlib import Path

import msgspec
import pytest

from bench.reuse.__main__ import main, num_differing
from bench.reuse.records import ARMS, CUT, KEPT, NONE, RESTARTED, TOGETHER, Answered
from tests.support.stack import split_for_serving
from tests.support.tokenizers import MODEL_FOLDER

NUM_TOKENS, NUM_TURN_TOKENS = 120, 10


def test_each_arm_says_the_same_and_sends_what_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles, out = split_for_serving(MODEL_FOLDER, tmp_path / "m1", 1), tmp_path / "out.json"
    link = ["--link", "up=2mbit,down=100mbit,rtt=4ms", "--link-kind", "tcp"]
    sizes = ["--tokens", str(NUM_TOKENS), "--turn-tokens", str(NUM_TURN_TOKENS)]
    few = [
        "--answer-tokens",
        "6",
        "--turns",
        "3",
        "--talks",
        "1",
        "--pause",
        "0",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["reuse", str(bundles), *link, *sizes, *few])
    assert main() == 0
    answers = msgspec.json.decode(out.read_bytes(), type=list[Answered])
    sent = {(each.arm, each.turn): each.sent_tokens for each in answers}
    for arm in ARMS:
        assert sent[arm, 0] == NUM_TOKENS
        whole = NUM_TOKENS + 2 * (NUM_TURN_TOKENS + 6)
        # Of the answer before, the last token was never computed.
        assert sent[arm, 2] == (whole if arm == NONE else NUM_TURN_TOKENS + 1)
    assert sum(sent[TOGETHER, turn] for turn in (0, 1)) == NUM_TOKENS + 2 * NUM_TURN_TOKENS
    for each in answers:
        assert each.cached_tokens == each.prompt_tokens - each.sent_tokens
        assert each.first_token_s > 0
    said = capsys.readouterr().out
    for arm in (NONE, KEPT, CUT, RESTARTED, TOGETHER):
        assert f"\n| {arm} | " in said
    answers[-1].answer.append(0)
    assert num_differing(answers) == 1
