"""The bundles of a model, made or checked by a process of its own.

What reads and splits models needs half a gigabyte of libraries, and `hat up` lives on for days.
"""

import subprocess
import sys
from pathlib import Path

from hat.bundle_cache import is_bundle_pair
from hat.early_interrupt import INTERRUPTED
from hat.splitting import SplitRequest


def bundle_folder(model: str | None, request: SplitRequest) -> Path:
    """The folder with both bundles of a model: the one named, a kept one, or a new one.

    `model` None is the default one. Progress and errors are shown by the process
    that works.

    Raises:
        SystemExit: the model cannot be had, read or split; the reason has been shown.
    """
    if model is not None and is_bundle_pair(Path(model)):
        return Path(model)
    command = [sys.executable, "-m", "hat.child", "bundle", *_options(request)]
    # The pipe's end tells it to clean up and end, whatever becomes of this process.
    with subprocess.Popen(
        command + ([] if model is None else ["--", model]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            folder = child.stdout.read()
            code = child.wait()
        except KeyboardInterrupt:
            # A terminal has told both; a signal for this process alone has not.
            child.stdin.close()
            child.wait()
            raise SystemExit(INTERRUPTED) from None
    if code != 0:
        raise SystemExit(code if code > 0 else 1)
    return Path(folder.removesuffix("\n"))


def _options(request: SplitRequest) -> list[str]:
    options = [f"--onnx-weights={','.join(request.onnx_weights) or 'none'}"]
    layers = (
        ("--input-layers", request.num_input_layers),
        ("--output-layers", request.num_output_layers),
    )
    return options + [f"{flag}={number}" for flag, number in layers if number is not None]
