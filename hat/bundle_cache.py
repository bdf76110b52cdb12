"""Bundles that `hat up` made, kept until their source or their options change."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from hat.errors import CommandError
from hat.splitting import SplitRequest, companions, default_model, model_path, split_model
from process.machine import cache_folder
from submodels.checkpoint.gguf.names import part_paths
from submodels.checkpoint.staging import alone_in


def is_bundle_pair(folder: Path) -> bool:
    """Whether this looks like a folder that `hat split` wrote."""
    return all((folder / side / "hat.json").is_file() for side in ("device", "cloud"))


def is_sound(folder: Path) -> bool:
    """Whether both bundles of a folder are there and pass their checks."""
    from submodels.bundle.bundle import load_bundle
    from submodels.errors import BundleError

    try:
        load_bundle(folder, "device", say=_say)
        load_bundle(folder, "cloud", say=_say)
    except BundleError:
        return False
    return True


def _say(text: str) -> None:
    click.echo(f"hat: {text}", err=True)


def cached_bundle(cache: Path, name: str, path: Path, request: SplitRequest) -> Path:
    """The folder for this model's bundles; another source or other options give another one.

    Another adapter or other Medusa heads do too: they may belong into these bundles.

    Raises:
        CommandError: the model's files cannot be listed.
    """
    from submodels.manifest import FORMAT_VERSION

    drafters = [
        _files(drafter) for drafter in (*companions(path, "adapter"), *companions(path, "medusa"))
    ]
    files = [*_files(path), *_base_files(path)]
    identity = repr((FORMAT_VERSION, name, files, drafters, request))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    label = re.sub(r"[^\w.-]+", "-", Path(name).name)[:60].strip(".-") or "model"
    return cache / "bundles" / f"{label}-{digest}"


def bundles_of(model: str | None, request: SplitRequest, environ: Mapping[str, str]) -> Path:
    """The folder with both bundles of a model: the one named, a kept one, or a new one.

    `model` None is the default one.

    Raises:
        UserError: the model cannot be had, read or split.
    """
    if model is not None and is_bundle_pair(Path(model)):
        return Path(model)
    name = str(default_model(environ, _say)) if model is None else model
    return prepared_bundle(name, model_path(name), request, environ)


def prepared_bundle(
    name: str, path: Path, request: SplitRequest, environ: Mapping[str, str]
) -> Path:
    """The kept bundles of the model at `path` (known to the user as `name`), or new ones.

    Raises:
        UserError: the model cannot be read or split.
    """
    target = cached_bundle(cache_folder(environ), name, path, request)
    if not is_sound(target):
        with _alone_in(target.parent):
            # Another process may just have made them.
            if not is_sound(target):
                _say(f"splitting {name} into {target}")
                split_model(name, path, target, request, overwrite=True)
                return target
    _say(f"using {target}")
    return target


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make and hold the folder of all bundles.

    Raises:
        CommandError: it cannot be made or held.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(
                alone_in(folder, lambda: _say("another process splits a model: waiting for it ..."))
            )
        except OSError as error:
            raise CommandError(f"cannot keep bundles in {folder}: {error}") from error
        yield


def _base_files(path: Path) -> list[tuple[str, int, int]]:
    """Of an adapter, what it is merged into.

    Raises:
        UserError: it names none that can be had.
    """
    from submodels.checkpoint.other_forms import is_adapter

    if not is_adapter(path):
        return []
    from submodels.checkpoint.lora.opening import base_of

    return _files(base_of(path))


def _files(model: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of change of every file of a model, links followed."""
    try:
        files = model.iterdir() if model.is_dir() else part_paths(model)
        paths = sorted(path.resolve() for path in files if path.is_file())
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    except OSError as error:
        raise CommandError(f"cannot read {model}: {error.strerror or error}") from error
