"""A bundle from a hostile cloud: its manifest and signatures, and how it is sent.

Whatever they say, there is one line about it, or names that may lie in a folder; and a download
ends: with all bytes, or with a reason, after a time that does not depend on the cloud's patience.
"""

import json
from copy import deepcopy
from typing import Any

from device_runtime.fetching.download import (
    Action,
    Ask,
    Check,
    Done,
    Download,
    Forget,
    LookAgain,
    Pause,
)
from device_runtime.fetching.listing import FetchError, Listing, Wanted, listing_of
from process.errors import UserError
from submodels.bundle.signature import SigningKey, new_private_key
from submodels.manifest import FORMAT_VERSION
from tests.fuzz.draws import Draws

SHA = [f"{number:x}" * 64 for number in range(1, 4)]
MANIFEST: dict[str, Any] = {
    "format_version": FORMAT_VERSION,
    "role": "device",
    "model_name": "somebody/story",
    "fingerprint": "ab" * 32,
    "dtype": "float32",
    "num_input_layers": 1,
    "num_output_layers": 0,
    "eos_token_ids": [1, 2],
    "shape": {
        "model_type": "llama",
        "num_layers": 5,
        "hidden_size": 64,
        "intermediate_size": 172,
        "vocab_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "max_context_tokens": 512,
        "rope": {"inv_freq": [1.0, 0.1, 0.01, 0.001]},
        "sliding_windows": [None, None, None, None, None],
    },
    "tensors": {},
    "rope_parameters": {"rope_type": "default"},
    "source_fingerprint": "cd" * 32,
    "files": {
        "weights.safetensors": {"num_bytes": 7, "sha256": SHA[0]},
        "tokenizer.json": {"num_bytes": 3, "sha256": SHA[1]},
    },
}
VALUES = (
    *(None, True, 0, -1, 1, 2**63, 10**400, 0.5, 1e308, "", "device", "cloud", [], {}, "float16"),
    *(
        "../../etc/passwd",
        "/root",
        "a/b",
        "hat.json",
        "HAT.JSON",
        "hat.sig",
        ".hidden",
        "con",
        "\0",
    ),
    *("a" * 300, "\u202e", "..", "weights.safetensors", SHA[0], SHA[1], SHA[2], {"num_bytes": 1}),
)
KEY = SigningKey(new_private_key(), "a key of this run")
PATIENCE_S = 180.0
FILES = (
    Wanted(("one",), 7, SHA[0]),
    Wanted(("two", "three"), 3, SHA[1]),
    Wanted(("empty",), 0, SHA[2]),
)
MOST_TURNS = 4000
MOST_S = (7 + 3 + 2 * len(FILES)) * (PATIENCE_S + 40.0)
"""Each byte, and each file that is forgotten once, may take all of the patience."""


def check(data: bytes) -> int:
    """A manifest or a download; one.

    Raises:
        Exception: something else than a UserError escaped, a name that is none, or no end.
    """
    draws = Draws(bytes(data))
    if draws.flag():
        _manifest(draws)
    else:
        _download(draws)
    return 1


def _manifest(draws: Draws) -> None:
    manifest = json.loads(json.dumps(MANIFEST))
    for _ in range(draws.number(0, 3)):
        _change(draws, manifest)
    text = json.dumps(manifest).encode()
    text = draws.mutated(text) if draws.one_in(4) else text
    signatures = draws.pick((None, KEY.line(text).encode(), draws.noise(80)))
    if signatures is not None and draws.one_in(4):
        signatures = draws.mutated(signatures)
    key = KEY.public if draws.flag() else None
    listing = _listing(text, signatures, key)
    if isinstance(listing, UserError):
        assert "\n" not in str(listing), "one line"
        return
    assert key is None or signatures is not None, "what is pinned is signed"
    names = [name for each in listing.wanted for name in each.names]
    for name in (*names, listing.folder_name):
        assert "/" not in name
        assert "\0" not in name
        assert not name.startswith(".")
    assert listing.num_bytes >= 0


def _listing(text: bytes, signatures: bytes | None, key: str | None) -> Listing | UserError:
    try:
        return listing_of(text, signatures, "the cloud", key)
    except UserError as error:
        return error


def _change(draws: Draws, value: Any) -> None:
    """Change, add or remove something at some depth of it."""
    while True:
        places = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not places or draws.one_in(6):
            break
        place = draws.pick(places)
        if isinstance(value[place], dict | list) and value[place] and not draws.one_in(4):
            value = value[place]
            continue
        if draws.one_in(3):
            del value[place]
        else:
            value[place] = deepcopy(draws.pick(VALUES))
        return
    if isinstance(value, dict):
        value[str(draws.pick(VALUES))] = deepcopy(draws.pick(VALUES))
    else:
        value.append(deepcopy(draws.pick(VALUES)))


def _download(draws: Draws) -> None:
    """A cloud that sends what it likes, over and over again."""
    kept = {sha: draws.number(0, 9) for sha in SHA if draws.flag()}
    download, now = Download(FILES, kept, 0.0, PATIENCE_S), 0.0
    script = [draws.number(0, 255) for _ in range(draws.number(1, 12))]
    action = download.next()
    for turn in range(MOST_TURNS):
        if isinstance(action, Done | LookAgain):
            return
        now += action.seconds if isinstance(action, Pause) else 0.05
        assert now <= MOST_S, "it gives up"
        try:
            action = _performed(download, action, script[turn % len(script)], now)
        except FetchError:
            return
    raise AssertionError("it comes to an end")


def _performed(download: Download, action: Action, what: int, now: float) -> Action:
    """What a shell does with an action, when the cloud does this; what is to be done next."""
    match action:
        case Check(file):
            return download.on_checked(file.sha256 if what % 4 else "another")
        case Forget():
            download.on_forgotten()
        case Ask(file, start):
            if what % 8 == 7:
                status = (410, 429, 503, 500, 416, 416, 404, 401)[what // 8 % 8]
                return download.on_refused(status, 7.0, now, 0.5)
            download.on_head(start if what % 3 else 0, file.num_bytes if what % 5 else None)
            download.on_bytes(what // 8 % 4, now)
            return download.on_end("it ended", now, 0.5)
        case _:
            pass
    return download.next()


def seeds() -> list[bytes]:
    """Bytes to begin with."""
    return [bytes((place * 19 + number) % 256 for place in range(120)) for number in range(8)]


def mutated(data: bytes) -> bytes:
    """As they are: every byte is a choice."""
    return data
