"""`hat token`: names in a file, and their tokens once on the standard output."""

import base64
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cloud_server.core.names.tokens import Name, Tokens, digest_of
from cloud_server.token_file import TokenFile, default_tokens_file, read_tokens, write_tokens
from hat.cli import hat, run
from process.errors import StartError, UserError


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command finds it without a flag."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("HAT_CLOUD_TOKENS_FILE", raising=False)
    return tmp_path / "hat" / "tokens.json"


def _token(*arguments: str) -> tuple[str, str]:
    """What is said on both outputs."""
    result = CliRunner().invoke(hat, ["token", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_a_token_is_printed_once_and_only_its_hash_is_kept(file: Path) -> None:
    out, _ = _token(
        "add", "phone", "--quota", "sessions=8,kv-tokens=64K", "--quota", "rows_per_s=9"
    )
    made = out.removesuffix("\n")
    assert "\n" not in made
    assert len(base64.urlsafe_b64decode(made.removeprefix("hat_") + "=")) == 32
    assert made not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    entry = read_tokens(file).get(Name("phone"))
    assert entry is not None
    assert entry.digest == digest_of(made)
    assert entry.quota.bounds == {"sessions": 8, "kv_tokens": 65_536, "rows_per_s": 9}
    assert [path.name for path in file.parent.iterdir()] == ["tokens.json"], "nothing is left over"


@pytest.mark.parametrize("output", ["full", "closed"])
def test_a_token_that_cannot_be_written_is_told_since_nobody_knows_it(
    output: str, file: Path
) -> None:
    """As into a file on a full disk; a closed output took it without a word."""
    command = [sys.executable, "-m", "hat", "token", "add", "phone", "--tokens-file", str(file)]
    closing = ["sh", "-c", 'exec "$@" >&-', "sh"]
    if output == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full" if output == "full" else os.devnull).open("wb") as full:
        shell = closing if output == "closed" else []
        done = subprocess.run(
            [*shell, *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "hat: the token cannot be written (" in done.stderr
    assert "nobody knows it: `hat token revoke phone`, then add it again" in done.stderr


def test_two_tokens_are_never_the_same(file: Path) -> None:
    assert len({_token("add", f"n{number}")[0] for number in range(20)}) == 20
    assert len(read_tokens(file).entries) == 20


def test_the_list_shows_names_and_no_hash(file: Path) -> None:
    _token("add", "phone", "--expires", "2090-01-31", "--quota", "tokens_per_day=1m")
    _token("add", "car", "--certificate")
    _token("revoke", "car")
    head, car, phone = _token("list")[0].splitlines()
    assert head.split() == ["NAME", "SHOWS", "MADE", "EXPIRES", "QUOTA", "STATE"]
    assert car.split()[:2] + car.split()[-1:] == ["car", "certificate", "revoked"]
    for part in ("2090-01-31 00:00 UTC", "tokens_per_day=1000000", "valid"):
        assert part in phone
    entry = read_tokens(file).get(Name("phone"))
    assert entry is not None
    assert entry.digest is not None
    assert entry.digest.hex()[:8] not in phone


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "a b"), "expected a name of 1 to 64"),
        (("add", "shared"), "a meaning of its own"),
        (("add", "x", "--quota", "sesions=1"), "expected each of connections, sessions"),
        (("add", "x", "--quota", "sessions=1,sessions=2"), "once"),
        (("add", "x", "--quota", "sessions=0"), "expected sessions of 1 to"),
        (("add", "x", "--quota", "sessions"), "expected a whole number"),
        (("add", "x", "--expires", "soon"), "90d, 12h, 30m, 4w or a day"),
        (("add", "x", "--expires", "2020-01-01"), "a time to come"),
        (("list",), "`hat token add NAME` makes it"),
        (("revoke", "x"), "`hat token add NAME` makes it"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    arguments: tuple[str, ...], words: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["token", *arguments]) in (1, 2)
    [line] = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not file.exists()


def test_a_name_is_added_once_and_revoked_once(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _token("add", "phone")
    before = file.read_text()
    assert run(["token", "add", "phone"]) == 1
    assert "`hat token revoke` ends it first" in capsys.readouterr().err
    assert file.read_text() == before
    _token("revoke", "phone")
    assert run(["token", "revoke", "phone"]) == 1
    _token("add", "phone")


def test_a_change_keeps_the_token_and_what_is_not_named(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = _token("add", "phone", "--quota", "sessions=8,rows_per_s=9")[0].strip()
    said, _ = _token("change", "phone", "--quota", "sessions=2,kv_tokens=1k,rows_per_s=0")
    assert said == "hat: phone is changed; clouds that run know it within 2 s\n"
    _token("change", "phone", "--expires", "2090-01-31")
    entry = read_tokens(file).get(Name("phone"))
    assert entry is not None
    assert entry.digest == digest_of(made)
    assert entry.quota.bounds == {"sessions": 2, "kv_tokens": 1000}
    assert entry.expires_unix_s is not None
    before = file.read_text()
    for arguments in (("phone",), ("nobody", "--quota", "sessions=1"), ("phone", "--quota", "x=1")):
        assert run(["token", "change", *arguments]) in (1, 2)
    _token("revoke", "phone")
    assert run(["token", "change", "phone", "--quota", "sessions=1"]) == 1
    assert "`hat token add` makes" in capsys.readouterr().err
    assert before != file.read_text()


def test_a_file_behind_a_link_is_replaced_and_the_link_stays(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "names.json"
    link = tmp_path / "link.json"
    link.symlink_to(real)
    _token("add", "phone", "--tokens-file", str(link))
    assert link.is_symlink()
    assert len(read_tokens(real).entries) == 1


def test_a_cloud_that_is_told_a_file_needs_it_and_the_usual_one_may_come_later(
    file: Path,
) -> None:
    with pytest.raises(StartError, match="hat token add NAME --tokens-file"):
        TokenFile(file, is_needed=True).start()
    usual = TokenFile(file, is_needed=False)
    usual.start()
    assert (usual.read(), usual.has_names) == (None, False)
    _token("add", "phone")
    tokens = usual.read()
    assert tokens is not None
    assert list(tokens.entries) == ["phone"]
    assert usual.read() is tokens, "nothing has changed"


def test_a_file_that_cannot_be_read_ends_the_start(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("{}")
    with pytest.raises(StartError, match="expected an object with version 1"):
        TokenFile(file, is_needed=False).start()


def test_a_file_that_could_not_be_read_once_is_tried_again(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _token("add", "phone")
    tokens = TokenFile(file, is_needed=True)
    tokens.start()
    _token("revoke", "phone")

    def full(*given: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        for _ in range(3):
            known = tokens.read()
            assert known is not None
            assert known.entries[Name("phone")].revoked_unix_s is None, "names stay as they were"
    assert caplog.text.count("too many open files") == 1
    known = tokens.read()
    assert known is not None
    assert known.entries[Name("phone")].revoked_unix_s is not None


@pytest.mark.parametrize("again", ['"phone": {}', '"p\\u0068one": {}'])
def test_a_name_that_is_there_twice_is_refused_since_one_of_them_may_be_a_revocation(
    again: str, file: Path
) -> None:
    _token("add", "phone")
    _token("revoke", "phone")
    text = file.read_text().rstrip().removesuffix("}").rstrip().removesuffix("}").rstrip()
    file.write_text(f"{text}, {again}}}}}")
    with pytest.raises(UserError, match="expected 'phone' once, found it twice"):
        read_tokens(file)


def test_a_register_that_an_editor_has_marked_as_utf_8_is_read(file: Path) -> None:
    _token("add", "phone")
    tokens = read_tokens(file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read_tokens(file) == tokens


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "1e400", "NaN"])
def test_numbers_beyond_all_bounds_are_no_times(number: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(f'{{"version": 1, "names": {{"phone": {{"made_unix_s": {number}}}}}}}')
    with pytest.raises(UserError, match=r"tokens\.json: (phone: expected made|expected JSON)"):
        read_tokens(file)


@pytest.mark.parametrize("when", ["999999w", "0d", "2020-01-01"])
def test_a_time_that_is_over_or_cannot_be_written_is_refused(
    when: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["token", "add", "phone", "--expires", when]) == 2
    assert "expected a time to come" in capsys.readouterr().err
    assert not file.exists()


def test_a_start_says_how_many_may_come_and_who_else_may_write(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    _token("add", "phone")
    TokenFile(file, is_needed=False).start()
    assert f"names that may come: 1, of {file}" in caplog.text
    assert "chmod" not in caplog.text
    file.chmod(0o660)
    TokenFile(file, is_needed=False).start()
    assert f"can be written by others: chmod 600 {file}" in caplog.text


def test_a_file_that_cannot_be_looked_at_any_more_is_told_of_once(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _token("add", "phone")
    tokens = TokenFile(file, is_needed=True)
    tokens.start()

    def refuse(path: Path) -> os.stat_result:
        raise PermissionError(13, "not for you", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    for _ in range(3):
        known = tokens.read()
        assert known is not None
        assert list(known.entries) == ["phone"]
    assert caplog.text.count("names stay as they were") == 1


def test_a_usual_file_that_comes_broken_lets_nobody_in(file: Path) -> None:
    usual = TokenFile(file, is_needed=False)
    usual.start()
    file.parent.mkdir()
    file.write_text("{")
    tokens = usual.read()
    assert tokens is not None
    assert not tokens.entries
    _token("add", "phone", "--tokens-file", str(file.parent / "whole.json"))
    (file.parent / "whole.json").replace(file)
    assert [*(usual.read() or tokens).entries] == ["phone"]


def test_a_usual_folder_that_cannot_be_looked_into_opens_no_cloud(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `sudo hat token add` with the user's home: it was as if nobody had a name."""
    file.parent.mkdir()

    def refuse(path: Path) -> os.stat_result:
        raise PermissionError(13, "not for you", str(path))

    usual = TokenFile(file, is_needed=False)
    usual.start()
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(StartError, match=f"tokens file: cannot look at {file}: permission denied"):
        TokenFile(file, is_needed=False).start()
    known = usual.read()
    assert known is not None
    assert not known.entries


def test_a_home_that_is_not_for_this_program_is_as_good_as_none(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> os.stat_result:
        raise PermissionError(13, "not for you", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    usual = TokenFile(file, is_needed=False)
    usual.start()
    assert usual.read() is None
    with pytest.raises(StartError, match=r"cannot look at .*: permission denied"):
        TokenFile(file, is_needed=True).start()


def test_the_usual_file_is_in_the_configuration_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_tokens_file({}) == Path("/home/somebody/.config/hat/tokens.json")
    assert default_tokens_file({"XDG_CONFIG_HOME": "relative"}) == default_tokens_file({})
    assert default_tokens_file(os.environ) != default_tokens_file({})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes into others' folders")
def test_root_gives_a_file_in_a_services_folder_to_the_service_and_follows_no_link_there(
    tmp_path: Path,
) -> None:
    folder, precious = tmp_path / "service", tmp_path / "precious"
    folder.mkdir(mode=0o700)
    os.chown(folder, 61_184, 61_185)
    precious.write_text("untouched")
    file = folder / "tokens.json"
    _token("add", "phone", "--tokens-file", str(file))
    status = file.stat()
    assert (status.st_uid, status.st_gid) == (61_184, 61_185)
    assert stat.S_IMODE(status.st_mode) == 0o600
    file.unlink()
    file.symlink_to(precious)
    with pytest.raises(UserError, match="root follows none"):
        write_tokens(file, Tokens())
    assert precious.read_text() == "untouched"
    own = tmp_path / "tokens.json"
    own.symlink_to(tmp_path / "elsewhere.json")
    write_tokens(own, Tokens())
    assert own.is_symlink()
    assert own.stat().st_uid == 0
