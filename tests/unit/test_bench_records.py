from pathlib import Path

import msgspec
import pytest

from bench.records import FORMAT, Comparison, RunFileError, read_run, write_run
from tests.support.bench_runs import made_up_request, made_up_run, with_requests


def _refusal(path: Path) -> str:
    with pytest.raises(RunFileError) as caught:
        read_run(path)
    return str(caught.value)


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    comparison = Comparison(name="hat", metric="TTFT (s)", paper=0.384, ours=0.4, note="reason")
    run = msgspec.structs.replace(made_up_run(), comparisons=[comparison])
    path = tmp_path / "folder" / "run.json"
    write_run(path, run)
    assert read_run(path) == run


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write_run(first, made_up_run(seed=3))
    write_run(second, read_run(first))
    assert first.read_bytes() == second.read_bytes()
    write_run(second, made_up_run(seed=4))
    assert first.read_bytes() != second.read_bytes()


def test_every_cell_and_every_request_has_a_line(tmp_path: Path) -> None:
    nasty = '{"arm":"x"} {"number":1}'
    run = with_requests(made_up_run(), [made_up_request([(0.1, 1)], output_sha256=nasty)] * 3)
    write_run(tmp_path / "run.json", run)
    assert read_run(tmp_path / "run.json") == run
    assert len((tmp_path / "run.json").read_bytes().splitlines()) == 1 + 1 + 3


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "none.json") == f"{tmp_path}/none.json: No such file or directory"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"kind": "live"}'])
def test_a_file_that_is_no_run_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    assert _refusal(path).startswith(f"{path}: expected a run of `hat bench`: ")


def test_another_format_is_named_before_its_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "later.json"
    path.write_text('{"format": 99, "kind": "live", "of": "a later version"}')
    assert _refusal(path) == f"{path}: expected format {FORMAT}, got 99"


def test_a_wrong_field_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_run(path, made_up_run())
    content = msgspec.json.decode(path.read_bytes())
    content["cells"][0]["requests"][0]["prompt_tokens"] = "many"
    path.write_bytes(msgspec.json.encode(content))
    assert "$.cells[0].requests[0].prompt_tokens" in _refusal(path).replace("[...]", "[0]")


@pytest.mark.parametrize("emissions", [[(0.2, 1), (0.1, 1)], [(-0.1, 1)], [(0.1, 1), (0.2, -1)]])
def test_times_that_go_backwards_are_refused(
    tmp_path: Path, emissions: list[tuple[float, int]]
) -> None:
    path = tmp_path / "run.json"
    write_run(path, with_requests(made_up_run(), [made_up_request(emissions, number=7)]))
    assert "request 7: expected times that go forward, and token counts" in _refusal(path)
