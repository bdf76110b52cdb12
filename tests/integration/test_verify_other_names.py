"""`hat verify` of families under another name and of text parts, by both engines of the device."""

from pathlib import Path

import pytest

from hat.cli import run
from tests.support.other_names import make_other_name
from tests.support.stack import split_for_serving

NAMES = (
    "seed_oss",
    "internlm3",
    "iquestcoder",
    "cwm",
    "ministral3",
    "qwen2_5_vl",
    "qwen3_vl",
    "mistral3",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_family_under_another_name_is_what_transformers_says(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    make_other_name(name, model)
    out = split_for_serving(model, tmp_path / "out", 1)
    flags = ("--num-prompts", "2", "--num-draws", "0", "--max-tokens", "12")
    for engine in ("onnx", "torch"):
        code = run(["verify", str(model), str(out), *flags, "--engine", engine])
        report = capsys.readouterr().out
        assert code == 0, report
        assert "the same ids" in report
        assert "the same text" in report
