from dataclasses import replace
from pathlib import Path

import pytest

from adapters.data.corpus import CorpusError, Windows
from adapters.measuring.evaluate import evaluate
from adapters.measuring.report import render_report
from adapters.options import EvaluateOptions, Recipe, StageProgress, TrainOptions, TrialOptions
from adapters.storage import AdapterError
from adapters.training.train import train
from tests.support.adapter_models import looked_up, make_bundles, write_stories

pytestmark = pytest.mark.slow

TRIALS = TrialOptions(3, prompt_tokens=(6, 12), continuation_tokens=12, max_draft_tokens=3)


def ignore(progress: StageProgress) -> None:
    """No bar."""


def trained(tmp_path: Path, num_output: int = 1) -> EvaluateOptions:
    device, cloud = make_bundles(tmp_path, num_output=num_output)
    text = write_stories(tmp_path / "text.txt", 6)
    train(
        TrainOptions(
            device_bundle=device,
            cloud_bundle=cloud,
            text=(text,),
            held_out=(text,),
            work=tmp_path / "work",
            lookup=looked_up,
            number_format="float32",
            out=device,
            recipe=Recipe(steps=4, batch_windows=2),
            windows=Windows(32, 4),
            calibration=TRIALS,
        ),
        ignore,
    )
    return EvaluateOptions(device, cloud, (text,), trials=TRIALS)


def test_an_evaluation_reports_every_rule_with_and_without_the_stop(tmp_path: Path) -> None:
    seen: list[StageProgress] = []
    report = evaluate(trained(tmp_path), seen.append)
    assert [(one.stage, one.done, one.total) for one in seen] == [
        ("evaluation", done, 3) for done in (1, 2, 3)
    ]
    assert [rule.name for rule in report.rules] == [
        "greedy",
        "sampled, one noise",
        "sampled, rejection",
    ]
    for rule in report.rules:
        assert 1 <= rule.stopped.tokens_per_round <= 4
        assert 1 <= rule.full.tokens_per_round <= 4
        assert rule.full.drafted_per_round == pytest.approx(3)
        assert len(rule.acceptance) == 3
    assert (report.num_prompts, report.num_output_layers) == (3, 1)


def test_an_evaluation_repeats_itself_and_its_seed_changes_the_samples_only(
    tmp_path: Path,
) -> None:
    options = trained(tmp_path)
    first, again = evaluate(options, ignore), evaluate(options, ignore)
    assert first == again
    other = evaluate(replace(options, trials=replace(TRIALS, seed=1)), ignore)
    assert other.rules[0] == first.rules[0]
    assert other.rules[1:] != first.rules[1:]


def test_the_printed_report_has_the_figures_of_the_report(tmp_path: Path) -> None:
    report = evaluate(trained(tmp_path), ignore)
    text = render_report(report)
    rows = [line for line in text.splitlines() if line.startswith("| greedy | 3 |")]
    assert len(rows) == 1
    assert f"{report.rules[0].full.tokens_per_round:.3f}" in rows[0]
    assert f"{report.num_parameters:,} parameters" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| greedy")}
    assert len(widths) == 1


def test_what_cannot_be_evaluated_is_told(tmp_path: Path) -> None:
    options = trained(tmp_path)
    with pytest.raises(AdapterError, match="no adapter at"):
        evaluate(replace(options, adapter=tmp_path), ignore)
    with pytest.raises(CorpusError, match="exceed the model's context of 96"):
        evaluate(replace(options, trials=replace(TRIALS, prompt_tokens=(90,))), ignore)
    short = tmp_path / "short.txt"
    short.write_text("cat")
    with pytest.raises(CorpusError, match="no story of more than 6"):
        evaluate(replace(options, text=(short,)), ignore)
