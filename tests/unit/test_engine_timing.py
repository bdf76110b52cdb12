"""What a call is said to take: the median of its runs, by the clock that is handed in."""

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.importing.conversion import import_head
from adapters.install import install_adapter
from adapters.storage import Kind
from device_runtime.engines.engine import Rows
from device_runtime.engines.timing import measured_draft_step_s, typical_s
from submodels.bundle.bundle import load_bundle
from tests.support.adapter_models import SMALL, make_bundles
from tests.support.device_engines import DRAFTING_ENGINES, ENGINES
from tests.support.published_heads import HeadRecipe, make_head
from tests.support.stored_adapters import store_random_adapter

STEP_S = 0.003


class Time:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_call_takes_the_median_of_its_runs_behind_the_first() -> None:
    time, takes = Time(), iter([9.0, 0.02, 0.5, 0.01])

    def call() -> None:
        time.now_s += next(takes)

    assert typical_s(call, time) == pytest.approx(0.02)


def test_a_short_call_is_repeated_and_a_bounded_number_of_times() -> None:
    runs: list[None] = []
    assert typical_s(lambda: runs.append(None), Time()) == 0.0
    assert len(runs) == 26


@pytest.mark.parametrize("kind", ["fed", "eagle", "eagle3"])
def test_a_draft_step_is_what_a_drafted_token_takes(tmp_path: Path, kind: Kind) -> None:
    """The head is the clock here; it is asked once for each drafted token."""
    bundle, _ = make_bundles(tmp_path, model=replace(SMALL, num_layers=8))
    manifest = load_bundle(bundle, "device").manifest
    if kind == "fed":
        store_random_adapter(tmp_path / "adapter", manifest, kind)
    else:
        head = make_head(manifest.shape, HeadRecipe(kind)).write(tmp_path / "head")
        import_head(str(head), bundle, tmp_path / "adapter")
    install_adapter(bundle, tmp_path / "adapter")
    engine, time = DRAFTING_ENGINES["torch"](bundle), Time()
    model = engine._submodels.draft_model
    assert model is not None
    plain = model.head

    def head(rows: Rows) -> Rows:
        time.now_s += STEP_S
        return plain(rows)

    # A frozen record; the engine reads it anew for each draft.
    object.__setattr__(model, "head", head)
    assert measured_draft_step_s(engine, time) == pytest.approx(STEP_S)
    assert not engine._sequences


def test_an_engine_that_cannot_draft_has_no_draft_step(tmp_path: Path) -> None:
    engine = ENGINES["torch"](make_bundles(tmp_path)[0])
    with pytest.raises(ValueError, match="expected an engine with an adapter"):
        measured_draft_step_s(engine, Time())
    assert not engine._sequences
