"""`hat sign`: whoever made a bundle says so, for those who pin his key."""

import os
from pathlib import Path

import click

from hat.errors import CommandError
from hat.settings.secret_files import readable_note
from process.errors import system_reason

_EPILOG = """
\b
Examples:
  hat sign --new-key bundles.key             makes a key, prints its public half
  hat sign llama-8b --key bundles.key        both bundles of a split
  hat device llama-8b/device --bundle-key ed25519:...

The signature is over hat.json, which holds the hash of every other file, and lies beside it as
hat.sig. Where --bundle-key pins the public half, `hat device`, `hat cloud` and `hat verify` take
no bundle that another key signed, and none that was changed since. Whatever changes a bundle, such
as an adapter that is added, wants it signed again.
"""

_MAX_KEY_BYTES = 1 << 16


@click.command(epilog=_EPILOG)
@click.argument("bundle", required=False)
@click.option("--key", metavar="FILE", help="The private key (PEM) to sign with.")
@click.option(
    "--new-key", metavar="FILE", help="Make a private key in this file, for you alone to read."
)
def sign(bundle: str | None, key: str | None, new_key: str | None) -> None:
    """Sign a bundle, or make a key to sign with.

    BUNDLE is the folder that `hat split` wrote, or one of the two in it.
    """
    if (bundle is None) is not (key is None) or (new_key is None) is (key is None):
        raise click.UsageError("expected BUNDLE and --key FILE, or --new-key FILE alone")
    for what, text in (("BUNDLE", bundle), ("--key", key), ("--new-key", new_key)):
        if text is not None and not text.strip():
            raise click.UsageError(f"{what}: expected a path, got {text!r}")
    if new_key is not None:
        _make_key(Path(new_key).expanduser())
    elif bundle is not None and key is not None:
        _sign(Path(bundle).expanduser(), Path(key).expanduser())


def _make_key(path: Path) -> None:
    from submodels.bundle.signature import SigningKey, new_private_key

    pem = new_private_key()
    try:
        # Never over another key: what that one signed would be signed by nobody.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandError(f"cannot make {path}: {system_reason(error)}") from error
    try:
        with open(descriptor, "wb") as file:
            file.write(pem)
            os.fsync(descriptor)
    except OSError as error:
        # Half a key would be in the way of the next one.
        path.unlink(missing_ok=True)
        raise CommandError(f"cannot make {path}: {system_reason(error)}") from error
    click.echo(SigningKey(pem, str(path)).public)


def _sign(bundle: Path, path: Path) -> None:
    from submodels.bundle.signature import SigningKey, sign_bundle

    folders = _bundles(bundle)
    try:
        with path.open("rb") as file:
            key = SigningKey(file.read(_MAX_KEY_BYTES), str(path))
    except OSError as error:
        raise CommandError(f"cannot read {path}: {system_reason(error)}") from error
    note = readable_note(path)
    if note is not None:
        click.echo(f"hat: {note}", err=True)
    for folder in folders:
        try:
            sign_bundle(folder, key)
        except OSError as error:
            raise CommandError(f"cannot sign {folder}: {system_reason(error)}") from error
        click.echo(f"signed {folder}")
    click.echo(f"who pins this key takes it: --bundle-key {key.public}")


def _bundles(path: Path) -> list[Path]:
    """The bundle that this is, or those in it.

    Raises:
        CommandError: there is none.
    """
    from submodels.bundle.manifest_file import MANIFEST_FILE

    places = (path, path / "device", path / "cloud")
    found = [folder for folder in places if (folder / MANIFEST_FILE).is_file()]
    if not found:
        raise CommandError(f"no bundle at {path}: expected {MANIFEST_FILE} there or in its folders")
    return found[:1] if found[0] == path else found
