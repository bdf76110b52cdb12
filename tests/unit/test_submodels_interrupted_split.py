"""Half a split is never taken for a whole one, and nothing that exists is lost to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from submodels import split as split_module
from submodels.bundle.bundle import load_bundle
from submodels.checkpoint import staging
from submodels.errors import BundleError, SplitError
from submodels.random_models import RandomModel, make_random_model
from submodels.tensors.safetensors_writer import SafetensorsWriter
from tests.support.split_models import split

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_random_model(RandomModel("llama", num_layers=4), folder)
    return folder


def test_an_existing_bundle_is_replaced_only_when_asked(model: Path, tmp_path: Path) -> None:
    split(model, tmp_path / "out", 1)
    with pytest.raises(SplitError, match="exists"):
        split(model, tmp_path / "out", 2)
    assert load_bundle(tmp_path / "out", "cloud").manifest.num_input_layers == 1
    split(model, tmp_path / "out", 2, overwrite=True)
    assert load_bundle(tmp_path / "out", "cloud").manifest.num_input_layers == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_never_replaced(
    model: Path, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SplitError, match=r"holds other files, such as thesis\.txt"):
        split(model, tmp_path, 1, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def _break_tokenizer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(split_module, "copy_tokenizer", _fail)


def _break_first_write(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SafetensorsWriter, "write", _fail)


def _break_last_write(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SafetensorsWriter, "finish", _fail)


def _break_manifest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(msgspec.json, "format", _fail)


def _break_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(staging, "_sync_tree", _fail)


def _break_rename(patch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fail_into_place(self: Path, target: Path) -> Path:
        return _fail() if self.name.endswith(".partial") else rename(self, target)

    patch.setattr(Path, "rename", fail_into_place)


def _fail(*args: Any, **kwargs: Any) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    "break_it",
    [
        _break_first_write,
        _break_last_write,
        _break_tokenizer,
        _break_manifest,
        _break_sync,
        _break_rename,
    ],
)
def test_a_split_that_fails_leaves_things_as_they_were(
    model: Path, tmp_path: Path, break_it: Any, existing: bool
) -> None:
    if existing:
        split(model, tmp_path / "out", 1)
    with pytest.MonkeyPatch.context() as patch:
        break_it(patch)
        with pytest.raises(SplitError, match="No space left"):
            split(model, tmp_path / "out", 2, overwrite=existing)
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if existing else [])
    if existing:
        assert load_bundle(tmp_path / "out", "device", verify=True).manifest.num_input_layers == 1


def test_a_killed_split_is_no_bundle_and_the_next_one_clears_it_away(
    model: Path, tmp_path: Path
) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from submodels.split import SplitOptions, split_checkpoint\n"
        "options = SplitOptions(sys.argv[1], Path(sys.argv[2]), 1, onnx_weights=())\n"
        "def die(done, total):\n"
        "    if done > total // 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "split_checkpoint(options, die)\n"
    )
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", program, str(model), str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    for path in (out, tmp_path / ".out.partial"):
        with pytest.raises(BundleError, match="no device bundle"):
            load_bundle(path, "device")
    split(model, out, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_splits_into_one_folder_do_not_mix(model: Path, tmp_path: Path) -> None:
    with (
        staging.staged_folder(tmp_path / "out", ("device", "cloud"), overwrite=False),
        pytest.raises(SplitError, match="another process is writing"),
    ):
        split(model, tmp_path / "out", 1)
    assert os.listdir(tmp_path / "out") in (["device", "cloud"], ["cloud", "device"])
