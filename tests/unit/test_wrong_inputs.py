"""What the commands around trust say to somebody who gives them the wrong thing."""

import errno
from pathlib import Path
from typing import IO, Any

import pytest

from hat.cli import run
from hat.service.install import install
from hat.service.place import Machine, place_of
from process.errors import UserError
from submodels.bundle.whole_file import replace_whole

EMPTY = [
    (["token", "add", "ann", "--tokens-file", ""], "--tokens-file: expected a file, got ''"),
    (["token", "add", "ann", "--quota", ""], "--quota: expected BOUND=N, such as sessions=8"),
    (["token", "add", "ann", "--quota", ","], "--quota: expected BOUND=N, such as sessions=8"),
    (["sign", "b", "--key", ""], "--key: expected a path, got ''"),
    (["sign", "", "--key", "k"], "BUNDLE: expected a path, got ''"),
    (["sign", "--new-key", " "], "--new-key: expected a path, got ' '"),
    (["audit", "b", "--text", ""], "--text: expected a file, got ''"),
    (["audit", "b", "--receipt", ""], "--receipt: expected a file, got ''"),
    (["cloud", "b", "--secret-file", ""], "--secret-file: expected a path, got ''"),
    (["cloud", "b", "--tls-certificate", ""], "--tls-certificate: expected a path, got ''"),
    (["cloud", "b", "--serve-device-bundle", ""], "--serve-device-bundle: expected a path"),
    (["cloud", "b", "--tls-names", ","], "--tls-names: expected a list of texts, got ','"),
    (["cloud", ""], "argument: expected a path, got ''"),
    (["device", "b", "--cloud-pin", ""], "--cloud-pin: expected a list of texts, got ''"),
    (["device", "b", "--kept-sessions-folder", ""], "--kept-sessions-folder: expected a path"),
]


@pytest.mark.parametrize(("words", "told"), EMPTY, ids=str)
def test_a_text_that_is_empty_is_neither_this_folder_nor_nothing(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """As where a variable of a shell is not set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert run(words) == 2
    assert capsys.readouterr().err.startswith(f"hat: {told}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["token", "add", "ann", "--quota", "sessions"],
            "--quota sessions: expected a whole number such as 64, 64k (64,000)",
        ),
        (["token", "add", "änn"], "expected a name of 1 to 64 of a to z, A to Z, 0 to 9,"),
        (["token", "revoke", "bert"], "{file}: there is no name bert"),
        (
            ["token", "change", "bert", "--expires", "3d"],
            "{file}: there is no name bert; `hat token add` makes it",
        ),
        (["sign", "split", "--key", "none.pem"], "cannot read none.pem: no such file or directory"),
        (["sign", "--new-key", "none/k.pem"], "cannot make none/k.pem: no such file or directory"),
        (["cloud", "b", "--secret-file", "none"], "--secret-file: cannot read none: no such file"),
        (["cloud", "b", "--config", "."], "cannot read --config .: is a directory"),
        (["device", "b", "--api-key-file", "."], "--api-key-file: cannot read .: is a directory"),
        (["token"], "Usage: hat token"),
    ],
    ids=str,
)
def test_what_is_missing_or_of_another_kind_is_told_in_words(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tokens.json"
    monkeypatch.setenv("HAT_CLOUD_TOKENS_FILE", str(file))
    assert run(["token", "add", "carl"]) == 0
    for side in ("device", "cloud"):
        (tmp_path / "split" / side).mkdir(parents=True)
        (tmp_path / "split" / side / "hat.json").touch()
    capsys.readouterr()
    assert run(words) in (1, 2)
    said = capsys.readouterr().err.removeprefix("hat: ")
    assert said.startswith(told.format(file=file))
    assert "Errno" not in said


class _FullDisk:
    """A disk that takes no byte, whoever writes."""

    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def __enter__(self) -> "_FullDisk":
        return self

    def __exit__(self, *raised: object) -> None:
        pass


def test_a_full_disk_leaves_no_half_of_a_key_that_would_be_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    key = tmp_path / "k.pem"
    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", lambda *_, **__: _FullDisk())
        assert run(["sign", "--new-key", str(key)]) == 1
    assert capsys.readouterr().err == f"hat: cannot make {key}: no space left on device\n"
    assert not key.exists()
    assert run(["sign", "--new-key", str(key)]) == 0


def test_a_full_disk_leaves_the_file_that_was_there_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hat.sig"
    path.write_bytes(b"before")
    real = Path.open

    def full(self: Path, mode: str = "r", **more: Any) -> IO[Any] | _FullDisk:
        real(self, mode, **more).close()
        return _FullDisk()

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        replace_whole(path, b"after")
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["hat.sig"]
    assert path.read_bytes() == b"before"


def test_a_unit_that_cannot_be_written_is_told_in_words_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of("hat-cloud", Machine("linux", 0, tmp_path, tmp_path), user=True)
    monkeypatch.setattr("os.fdopen", lambda *_: _FullDisk())
    with pytest.raises(UserError, match=r"cannot write .*service: no space left on device"):
        install(place, "text", None, lambda _: None)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []
