"""The self-test finds what is wrong with an engine, and says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cloud_server.config import CloudConfig
from cloud_server.engines.engine import EngineLostError, SequenceId, StepItem
from hat.self_test.checks import Outcome, largest_error, run_checks, tolerance_of
from hat.self_test.quiet import Quiet
from hat.self_test.random_bundle import RandomBundle, model_for, unsplit_bundle
from hat.self_test.report import Column, outcome_line, summary_line, times_table
from hat.self_test.settings import for_checks, for_random_model, in_mode, modes
from hat.self_test.step_times import LOADS, VERIFY_8, Load, StepTimes, measure
from hat.self_test.streams import OwnStreams, Stream
from submodels.bundle.bundle import load_bundle
from tests.support.fake_middle_engine import FakeMiddleEngine
from wire.messages import Want

CONFIG = CloudConfig(Path())


def outcomes_of(engine: FakeMiddleEngine) -> dict[str, Outcome]:
    """By the name of the check."""
    outcomes = run_checks(engine, OwnStreams(engine), tolerance_of(engine.dtype))
    return {outcome.name: outcome for outcome in outcomes}


class _Appends(FakeMiddleEngine):
    """Keeps rejected rows."""

    def step(self, batch):
        lengths = [len(self.rows[item.sequence]) for item in batch]
        kept = [
            StepItem(item.sequence, length, item.rows, item.want)
            for item, length in zip(batch, lengths, strict=True)
        ]
        return super().step(kept)


class _ForksAll(FakeMiddleEngine):
    """A fork gets the rows behind the shared prefix too."""

    def open(self, max_tokens, fork_of=None, fork_tokens=0):
        sequence = super().open(max_tokens, fork_of, fork_tokens)
        if fork_of is not None:
            self.rows[sequence] = self.rows[fork_of] + 1
        return sequence


class _MixesUp(FakeMiddleEngine):
    """In a batch of sessions, two get each other's last rows."""

    def step(self, batch):
        out = super().step(batch)
        if len(out) > 4:
            out[0][-1], out[1][-1] = out[1][-1].copy(), out[0][-1].copy()
        return out


class _WantsFirst(FakeMiddleEngine):
    """Takes the first row for the last."""

    def step(self, batch):
        every = [StepItem(item.sequence, item.position, item.rows, Want.ALL) for item in batch]
        pairs = zip(batch, super().step(every), strict=True)
        return [out[:1] if item.want is Want.LAST else out[: _num(item)] for item, out in pairs]


def _num(item: StepItem) -> int:
    return len(item.rows) if item.want is Want.ALL else 0


class _Leaks(FakeMiddleEngine):
    """Gives nothing back."""

    def release(self, sequence: SequenceId) -> None:
        self.rows.pop(sequence)


class _Dies(FakeMiddleEngine):
    def step(self, batch):
        raise EngineLostError("the engine's workers are gone")


class _SaysNan(FakeMiddleEngine):
    """Rows that are no numbers, in batches only."""

    def step(self, batch):
        out = super().step(batch)
        return [rows * np.nan for rows in out] if len(out) > 4 else out


def test_an_engine_that_is_right_passes_every_check():
    outcomes = outcomes_of(FakeMiddleEngine(capacity=8000))
    assert {name: outcome.passed for name, outcome in outcomes.items()} == dict.fromkeys(
        (
            "prompt in chunks",
            "rollback",
            "fork",
            "mixed batches",
            "wanted rows",
            "capacity given back",
        ),
        True,
    )


@pytest.mark.parametrize(
    ("engine", "failing"),
    [
        (_Appends, {"rollback", "mixed batches"}),
        (_ForksAll, {"fork"}),
        (_MixesUp, {"mixed batches"}),
        (_WantsFirst, {"wanted rows"}),
        (_Leaks, {"capacity given back"}),
        (_SaysNan, {"mixed batches"}),
    ],
)
def test_what_is_wrong_with_an_engine_fails_the_check_of_it(engine, failing):
    outcomes = outcomes_of(engine(capacity=32_000)).values()
    assert {outcome.name for outcome in outcomes if not outcome.passed} >= failing
    assert next(outcome for outcome in outcomes if outcome.name == "prompt in chunks").passed


def test_a_lost_engine_is_a_finding_and_not_a_crash():
    outcomes = outcomes_of(_Dies(capacity=8000))
    assert not outcomes["rollback"].passed
    assert outcomes["rollback"].numbers == "EngineLostError: the engine's workers are gone"
    assert outcomes["capacity given back"].passed


def error_of(*pairs: tuple[list[float], list[float]]) -> float:
    return largest_error((np.array([came]), np.array([expected])) for came, expected in pairs)


def test_an_error_is_relative_and_stays_what_is_not_finite():
    assert error_of() == 0
    assert error_of(([1.0, 4.5], [1.0, 5.0])) == pytest.approx(0.1)
    assert np.isnan(error_of(([np.nan, 1.0], [1.0, 1.0]), ([1.0], [1.0])))
    with pytest.raises(ValueError, match="expected rows"):
        error_of(([0.0], [0.0, 0.0]))


def test_a_stream_behind_another_begins_with_its_rows():
    engine = FakeMiddleEngine()
    streams = OwnStreams(engine)
    first = streams.stream(10, seed=1)
    both = streams.stream(5, seed=2, after=Stream(first.rows[:4], first.expected[:4]))
    np.testing.assert_array_equal(both.rows[:4], first.rows[:4])
    np.testing.assert_allclose(both.expected[:4], first.expected[:4], rtol=1e-6)
    assert len(both.rows) == len(both.expected) == 9
    assert engine.num_sequences == 0


def test_every_load_is_timed_and_what_has_no_room_is_said():
    engine = FakeMiddleEngine(capacity=1500)
    times = measure(engine, num_steps=2)
    assert [load for load, time in times.items() if time is None] == [Load(32, 5)]
    assert engine.num_sequences == 0
    assert all(time.begin_s is None for time in times.values() if time is not None)
    table = times_table([Column("eager", times)])
    assert [line.split()[0] for line in table[1:]] == [load.name for load in LOADS]
    assert "no room" in table[1 + LOADS.index(Load(32, 5))]


def test_the_table_says_that_graphs_are_not_there_and_where_the_time_goes():
    column = Column("compiled", {VERIFY_8: StepTimes(0.004, 0.005, 0.001, 0.0025)})
    table = "\n".join(times_table([column]))
    assert "4.00 (5.00)" in table
    assert "not built yet" in table
    assert "1.00 ms to plan and send, 3.00 ms in the workers" in table
    assert "2.50 ms per step with every stage at work" in table


def test_the_line_to_report_is_one_line_with_everything():
    outcomes = [Outcome("rollback", True, ""), Outcome("fork", False, "")]
    column = Column("eager", {VERIFY_8: StepTimes(0.004, 0.005)})
    config = CloudConfig(Path("/secret/place"), engine="vllm", tensor_parallel_size=2)
    line = summary_line(config, outcomes, [column], 12.4)
    assert "\n" not in line
    for part in ("checks 1/2", "TP 2, PP 1", "eager 4.00 ms", "| 12 s", "torch "):
        assert part in line
    assert "/secret" not in line
    assert "FAILED" in outcome_line(outcomes[1])


def test_the_ways_to_run_follow_the_settings():
    vllm = CloudConfig(Path(), engine="vllm", vllm_args='{"block_size": 32}')
    assert modes(CONFIG) == ("eager",)
    assert modes(vllm) == ("compiled", "eager")
    arguments = json.loads(in_mode(vllm, "eager").vllm_args)
    assert arguments == {"block_size": 32, "enforce_eager": True}
    assert modes(in_mode(vllm, "eager")) == ("eager",)
    assert in_mode(CONFIG, "eager") == CONFIG


def test_random_models_leave_out_settings_of_the_operators_own_model():
    own = CloudConfig(
        Path("own"),
        engine="vllm",
        quantization="fp8",
        capacity_tokens=1 << 30,
        max_context_tokens=100_000,
        step_budget_tokens=8,
        gpu_memory_utilization=0.5,
    )
    config = for_random_model(own, Path("random"), "float32")
    assert (config.quantization, config.max_context_tokens) == (None, None)
    assert (config.bundle, config.dtype) == (Path("random"), "float32")
    assert config.gpu_memory_utilization == 0.5
    assert config.step_budget_tokens == 512
    assert for_checks(own).quantization == "fp8"


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("num_stages", [1, 2, 16])
@pytest.mark.parametrize("is_large", [False, True])
def test_any_number_of_workers_can_share_a_random_model(num_shards, num_stages, is_large):
    model = model_for("llama", num_shards, num_stages, is_large)
    assert model.num_attention_heads % model.num_key_value_heads == 0
    assert model.num_attention_heads > model.num_key_value_heads
    for size in (model.num_attention_heads, model.intermediate_size, model.num_key_value_heads):
        assert size % num_shards == 0
    assert RandomBundle(Path(), None, model).num_middle_layers >= num_stages


def test_a_bundle_that_was_not_split_is_a_bundle(tmp_path):
    made = unsplit_bundle(model_for("llama", 1, 1, is_large=False), tmp_path)
    bundle = load_bundle(made.path, "cloud", verify=True)
    assert bundle.manifest.num_middle_layers == made.num_middle_layers
    assert made.model is None


def test_output_goes_to_a_file_also_that_of_processes_started_meanwhile(tmp_path, capfd):
    quiet = Quiet(tmp_path / "log")
    with quiet():
        os.write(1, b"to descriptor 1\n")
        child = subprocess.Popen(
            [sys.executable, "-c", "input(); print('later')"], stdin=subprocess.PIPE
        )
    child.communicate(b"\n")
    os.write(1, b"shown\n")
    assert capfd.readouterr().out == "shown\n"
    kept = quiet.last_lines()
    assert "to descriptor 1" in kept
    assert "later" in kept
    quiet.forget()
    assert quiet.last_lines() == []
    with quiet():
        os.write(2, b"\nfresh\n")
    assert quiet.last_lines() == ["fresh"]
    assert Quiet(None).last_lines() == []
