"""Bundles say who made them, to whoever pins his key; the signature is read by openssl as well."""

import base64
import json
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hat.cli import run
from hat.verify.run import check_files
from process.machine import CACHE_VARIABLE
from submodels.bundle.bundle import load_bundle
from submodels.bundle.signature import (
    SIGNATURE_FILE,
    SigningKey,
    new_private_key,
    sign_bundle,
    signed_bytes,
)
from submodels.errors import BundleError
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint

# What goes before the 32 bytes of a public ed25519 key in DER (RFC 8410, section 4).
SPKI = bytes.fromhex("302a300506032b6570032100")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    make_random_model(RandomModel(num_layers=3, hidden_size=256, vocab_size=4500), folder / "model")
    return split_checkpoint(SplitOptions(str(folder / "model"), folder / "out", 1)).out


@pytest.fixture
def bundles(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundles that the test may damage, and a cache of its own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return Path(shutil.copytree(whole, tmp_path / "out"))


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(new_private_key(), "key")


def test_a_signed_bundle_loads_where_its_key_is_pinned(bundles: Path, key: SigningKey) -> None:
    sign_bundle(bundles / "device", key)
    sign_bundle(bundles / "cloud", key)
    bundle = load_bundle(bundles, "device", key=key.public)
    assert bundle.unlisted() == ()
    load_bundle(bundles, "cloud", key=key.public)


def test_openssl_finds_the_signature_right(bundles: Path, key: SigningKey, tmp_path: Path) -> None:
    sign_bundle(bundles / "device", key)
    public, signature = (bundles / "device" / SIGNATURE_FILE).read_text().split()
    manifest = (bundles / "device" / "hat.json").read_bytes()
    der, message, made = tmp_path / "key.der", tmp_path / "message", tmp_path / "made"
    der.write_bytes(SPKI + base64.b64decode(public.removeprefix("ed25519:")))
    message.write_bytes(b"hat bundle manifest 1\n" + manifest)
    made.write_bytes(base64.b64decode(signature))
    files = ["-inkey", der, "-in", message, "-sigfile", made]
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Verified Successfully" in done.stdout


def test_both_of_two_keys_are_taken_and_a_third_is_not(bundles: Path, key: SigningKey) -> None:
    second, third = (SigningKey(new_private_key(), "key") for _ in range(2))
    for signer in (key, second, key):
        sign_bundle(bundles / "device", signer)
    for signer in (key, second):
        load_bundle(bundles, "device", key=signer.public)
    with pytest.raises(BundleError, match=r"is signed by ed25519:.*: expected ed25519:.* pinned"):
        load_bundle(bundles, "device", key=third.public)


def test_a_bundle_without_a_signature_is_taken_only_where_none_is_asked_for(
    bundles: Path, key: SigningKey
) -> None:
    load_bundle(bundles, "device")
    with pytest.raises(BundleError, match=r"is not signed: expected hat\.sig by ed25519:"):
        load_bundle(bundles, "device", key=key.public)


def _another_model_name(folder: Path) -> None:
    document = json.loads((folder / "hat.json").read_text())
    (folder / "hat.json").write_text(json.dumps(document | {"model_name": "another"}))


def _a_flipped_bit(folder: Path) -> None:
    path = folder / "embedding.safetensors"
    path = path if path.exists() else max(folder.glob("*.safetensors"), key=_size)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _size(path: Path) -> int:
    return path.stat().st_size


def _signature_of_another_file(folder: Path) -> None:
    signer = SigningKey(new_private_key(), "key")
    made = signer.line((folder / "hat.json").read_bytes()).split()[1]
    public = (folder / SIGNATURE_FILE).read_text().split()[0]
    (folder / SIGNATURE_FILE).write_text(f"{public} {made}\n")


def _half_a_line(folder: Path) -> None:
    text = (folder / SIGNATURE_FILE).read_text()
    (folder / SIGNATURE_FILE).write_text(text[:80])


def _a_link_out(folder: Path) -> None:
    shutil.move(folder / SIGNATURE_FILE, folder.parent / "elsewhere")
    (folder / SIGNATURE_FILE).symlink_to(folder.parent / "elsewhere")


def _endless(folder: Path) -> None:
    (folder / SIGNATURE_FILE).write_bytes(b"x" * 5000)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_another_model_name, "hat.json is not what ed25519:.* has signed"),
        (_a_flipped_bit, "is corrupt"),
        (_signature_of_another_file, "hat.json is not what ed25519:.* has signed"),
        (_half_a_line, "hat.sig is damaged: line 1"),
        (_a_link_out, "is a link out of the bundle's folder"),
        (_endless, "larger than 4096 bytes"),
    ],
)
def test_what_was_changed_after_signing_is_refused_by_name(
    bundles: Path, key: SigningKey, damage: Callable[[Path], None], words: str
) -> None:
    sign_bundle(bundles / "device", key)
    damage(bundles / "device")
    with pytest.raises(BundleError, match=words):
        load_bundle(bundles, "device", key=key.public)


def test_a_large_file_is_hashed_at_every_start_where_a_key_is_pinned(
    bundles: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Remembered versions are no proof: whoever could write to the cache could forge them."""
    sign_bundle(bundles / "device", key)
    monkeypatch.setattr("submodels.tensors.file_hashes.VerifiedFiles.knows", lambda *_: True)
    _a_flipped_bit(bundles / "device")
    load_bundle(bundles, "device")
    with pytest.raises(BundleError, match="is corrupt"):
        load_bundle(bundles, "device", key=key.public)


def test_a_signature_is_written_through_no_link(
    bundles: Path, key: SigningKey, tmp_path: Path
) -> None:
    precious, folder = tmp_path / "precious", bundles / "device"
    precious.write_text("untouched")
    (folder / f".{SIGNATURE_FILE}.partial").symlink_to(precious)
    sign_bundle(folder, key)
    assert precious.read_text() == "untouched"
    assert not (folder / SIGNATURE_FILE).is_symlink()
    load_bundle(folder, "device", key=key.public)


def test_what_is_signed_begins_with_words_of_its_own() -> None:
    """A key that signs other things as well signs no bundle by accident."""
    assert signed_bytes(b"{}") == b"hat bundle manifest 1\n{}"


def test_the_command_makes_a_key_for_its_user_alone_and_signs_both_bundles(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bundles.key"
    assert run(["sign", "--new-key", str(file)]) == 0
    public = capsys.readouterr().out.strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run(["sign", str(bundles), "--key", str(file)]) == 0
    assert f"--bundle-key {public}" in capsys.readouterr().out
    for role in ("device", "cloud"):
        load_bundle(bundles, role, key=public)  # type: ignore[arg-type]
    before = file.read_bytes()
    assert run(["sign", "--new-key", str(file)]) == 1
    assert "file exists" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "expected BUNDLE and --key FILE"),
        (["somewhere"], 2, "expected BUNDLE and --key FILE"),
        (["nowhere", "--key", "missing"], 1, "no bundle at nowhere"),
        (["--new-key", "a", "--key", "b", "c"], 2, "expected BUNDLE and --key FILE"),
    ],
)
def test_the_command_says_what_it_wants(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sign", *arguments]) == code
    assert words in capsys.readouterr().err


def test_a_key_of_another_kind_is_named_and_not_shown(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in (
        b"secret words",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
    ):
        (tmp_path / "key").write_bytes(content)
        assert run(["sign", str(bundles), "--key", str(tmp_path / "key")]) == 1
        said = capsys.readouterr().err
        assert "expected a private ed25519 key" in said
        assert "secret words" not in said


def test_hat_verify_names_who_did_not_sign(bundles: Path, key: SigningKey) -> None:
    sign_bundle(bundles / "device", key)
    check = check_files(bundles, key.public)
    assert check.verdict == "FAILED"
    assert "cloud is not signed" in check.line
    sign_bundle(bundles / "cloud", key)
    check = check_files(bundles, key.public)
    assert (check.verdict, key.public in check.line) == ("ok", True)
    assert check_files(bundles, None).verdict == "ok"
