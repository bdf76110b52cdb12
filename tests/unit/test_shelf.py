"""Kept sessions on disk: for their owner alone, whole or not at all, and removed when of no use."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from device_runtime.runtime.shelf import DiskShelf, boot_id
from device_runtime.session.kept_text import Identity, KeptText, packed_ids
from process.errors import StartError

IDENTITY = Identity(("weights", "cloud"))
NOW_S = 1000.0


def record(number: int, expires_s: float = 48.0, identity: Identity = IDENTITY) -> KeptText:
    return KeptText(
        identity=identity,
        key=bytes([number]) * 16,
        max_tokens=20,
        token_ids=packed_ids([number, 2, 3]),
        used_unix_s=NOW_S - 10 + number,
        expires_unix_s=NOW_S - 10 + number + expires_s,
    )


def shelf(folder: Path, identity: Identity = IDENTITY) -> DiskShelf:
    return DiskShelf(folder, identity, lambda: NOW_S)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != "lock")


async def written(folder: Path, *records: KeptText) -> None:
    one = shelf(folder)
    for each in records:
        one.put(each)
    await one.close()


async def test_the_next_run_finds_what_was_put_the_last_used_last(tmp_path: Path) -> None:
    await written(tmp_path / "a" / "kept", record(3), record(1), record(2))
    one = shelf(tmp_path / "a" / "kept")
    assert one.load() == [record(1), record(2), record(3)]
    await one.close()


async def test_nobody_else_may_read_a_file_or_look_into_a_new_folder(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        await written(tmp_path / "kept", record(1))
    finally:
        os.umask(old)
    [path] = files(tmp_path / "kept")
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    assert record(1).key.hex() not in path.name


async def test_what_is_written_in_part_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = shelf(tmp_path)

    def refused(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "replace", refused)
        one.put(record(1))
        assert await one.take(record(2).key), "it comes after that"
    assert files(tmp_path) == []
    assert "no space left on device" in caplog.text
    one.put(record(1))
    await one.close()
    assert len(files(tmp_path)) == 1


async def test_a_pipe_is_no_kept_session_and_is_not_waited_for(tmp_path: Path) -> None:
    one = shelf(tmp_path)
    os.mkfifo(tmp_path / "pipe.kept")
    assert await asyncio.wait_for(asyncio.to_thread(one.load), 10.0) == []
    assert files(tmp_path) == []
    await one.close()


async def test_what_is_dropped_or_taken_is_gone(tmp_path: Path) -> None:
    one = shelf(tmp_path)
    one.put(record(1))
    one.put(record(2))
    one.drop(record(1).key)
    assert await one.take(record(2).key)
    assert await one.take(record(2).key), "repeats are harmless"
    assert files(tmp_path) == []
    await one.close()


async def test_a_file_that_cannot_be_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = shelf(tmp_path)
    one.put(record(1))

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "unlink", refused)
    assert not await one.take(record(1).key)
    monkeypatch.undo()
    await one.close()


async def test_a_second_text_of_a_session_takes_the_firsts_place(tmp_path: Path) -> None:
    later = KeptText(**{**_fields(record(1)), "token_ids": packed_ids([7, 8])})
    await written(tmp_path, record(1), later)
    one = shelf(tmp_path)
    assert one.load() == [later]
    await one.close()


def _fields(kept: KeptText) -> dict[str, object]:
    return {name: getattr(kept, name) for name in KeptText.__struct_fields__}


async def test_expired_ones_and_half_written_ones_are_removed_at_the_next_start(
    tmp_path: Path,
) -> None:
    await written(tmp_path, record(1, expires_s=9.0), record(2))
    (tmp_path / "half.tmp").write_bytes(b"half")
    one = shelf(tmp_path)
    assert one.load() == [record(2)]
    assert len(files(tmp_path)) == 1
    await one.close()


async def test_a_damaged_file_is_ignored_with_one_line_and_no_word_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await written(tmp_path, record(1), record(2))
    damaged, sound = files(tmp_path)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with caplog.at_level(logging.INFO):
        one = shelf(tmp_path)
        [left] = one.load()
    assert one._path(left.key) == sound
    assert [each.message for each in caplog.records] == [
        f"{damaged} is no kept session and is removed: its checksum is wrong"
    ]
    assert files(tmp_path) == [sound]
    await one.close()


async def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    await written(tmp_path / "kept", record(1))
    [path] = files(tmp_path / "kept")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    one = shelf(tmp_path / "kept")
    assert one.load() == []
    assert (tmp_path / "elsewhere").exists()
    await one.close()


async def test_sessions_of_another_model_cloud_or_boot_are_left_alone(tmp_path: Path) -> None:
    await written(tmp_path, record(1, identity=Identity(("other", "cloud"))), record(2))
    one = shelf(tmp_path)
    assert one.load() == [record(2)]
    assert len(files(tmp_path)) == 2
    await one.close()


async def test_two_programs_may_not_share_a_folder(tmp_path: Path) -> None:
    one = shelf(tmp_path)
    with pytest.raises(StartError, match="another device program"):
        shelf(tmp_path)
    await one.close()
    await shelf(tmp_path).close()


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StartError, match="nobody else may write to"):
        shelf(tmp_path)


def test_a_folder_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"kept_sessions_folder: cannot use .*: not a directory"):
        shelf(tmp_path / "file" / "kept")


async def test_a_disk_that_is_full_costs_a_line_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    one = shelf(tmp_path)
    monkeypatch.setattr(os, "replace", full)
    one.put(record(1))
    await one.close()
    assert "cannot be written: no space left on device" in caplog.text


def test_this_system_names_its_boots() -> None:
    assert boot_id() == boot_id()
