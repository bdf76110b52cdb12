"""Whatever a cloud sends for a manifest, it is a bundle of plain files or one line of an error."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.fetching.listing import Listing, listing_of
from process.errors import UserError
from submodels.split import SplitOptions, split_checkpoint

MODEL = Path(__file__).parents[2] / "models" / "stories260k"

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars | st.sampled_from(["../x", "/etc/passwd", "0" * 64, 1 << 80, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("split")
    split_checkpoint(SplitOptions(str(MODEL), out / "out", 1, onnx_weights=()))
    return (out / "out" / "device" / "hat.json").read_bytes()


def _one_change(document: dict[str, Any], data: st.DataObject) -> None:
    """Somewhere in it a value becomes another one, a key another key, or something is missing."""
    place: Any = document
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        is_deeper = isinstance(place[key], dict | list) and bool(place[key])
        if is_deeper and data.draw(st.booleans()):
            place = place[key]
            continue
        what = data.draw(st.sampled_from(["value", "key", "gone"]))
        if what == "value":
            place[key] = data.draw(values)
        elif what == "key" and isinstance(place, dict):
            place[data.draw(st.text(max_size=12))] = place.pop(key)
        else:
            del place[key]
        return


@given(data=st.data(), num_changes=st.integers(1, 3))
def test_a_changed_manifest_is_a_listing_of_plain_names_or_an_error(text, data, num_changes):
    document = json.loads(text)
    for _ in range(num_changes):
        _one_change(document, data)
    listing = _listing_or_words(json.dumps(document).encode())
    if isinstance(listing, str):
        assert listing.isprintable()
        return
    assert listing.num_bytes >= 0
    assert Path(listing.folder_name).name == listing.folder_name
    for file in listing.wanted:
        assert all(Path(name).name == name and not name.startswith(".") for name in file.names)
        assert int(file.sha256, 16) >= 0
        assert len(file.sha256) == 64


def _listing_or_words(text: bytes) -> Listing | str:
    try:
        return listing_of(text, None, "here", None)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", ["\n", "\x1b[2J", "a\u202eb", "\ud800"])
def test_a_field_of_any_name_is_told_in_a_line_that_can_be_printed(text, name):
    document = json.loads(text)
    document[name] = document.pop("bos_token_id")
    listing = _listing_or_words(json.dumps(document).encode())
    assert isinstance(listing, str)
    assert listing.isprintable()


@given(noise=st.binary(max_size=200), place=st.integers(0, 1 << 16))
def test_bytes_that_are_no_manifest_are_an_error(text, noise, place):
    cut = place % len(text)
    for sent in (noise, text[:cut], text[:cut] + noise + text[cut + len(noise) :]):
        assert isinstance(_listing_or_words(sent), Listing | str)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("owner/Some Model", "Some-Model"),
        ("..", "model"),
        ("a/../..", "model"),
        ("x" * 300, "x" * 60),
        ("\u202emodel\n", "model"),
    ],
)
def test_the_name_of_the_folder_says_which_model_it_is(text: bytes, name: str, label: str) -> None:
    """The name comes from the cloud; nothing of it but plain letters is believed."""
    document = json.loads(text) | {"model_name": name}
    listing = listing_of(json.dumps(document).encode(), None, "here", None)
    assert listing.folder_name.startswith(f"{label}-{document['fingerprint'][:12]}-")
    assert "/" not in listing.folder_name
