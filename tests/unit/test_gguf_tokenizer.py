"""The tokenizer of a GGUF file gives the ids that transformers' own reading of the file gives."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, Qwen2Tokenizer

from device_runtime.text.chat_template import load_chat_template
from submodels.checkpoint.gguf.file import read_gguf
from submodels.checkpoint.gguf.tokenizer import write_tokenizer
from submodels.checkpoint.gguf.vocabulary import read_vocabulary
from submodels.checkpoint.gguf.words import SPLITTINGS
from submodels.checkpoint.tokenizer_files import special_tokens
from submodels.errors import CheckpointError, UnsupportedModelError
from tests.support.many_languages import DATA, ids_of, lines, theirs

MODELS = Path(__file__).parents[2] / "models"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
# Where the models' own tokenizers and transformers' reading of the files differ.
WHOLE_WORDS = tuple(name for name, splitting in SPLITTINGS.items() if splitting.whole_words)


@cache
def byte_level_vocabulary() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tokens and merges learnt on words of many languages; words in pieces of any kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", behavior="merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stories = (DATA / "tinystories_held_out.txt").read_text()[:60_000].splitlines()
    tokenizer.train_from_iterator([*lines()[:40], *stories], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tuple(tokens), tuple(" ".join(merge) for merge in model["merges"])


def write_file(
    path: Path,
    tokens: list[str],
    types: list[int],
    settings: dict[str, Any],
    architecture: str = "llama",
) -> Path:
    """A file without weights."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_uint32(f"{architecture}.block_count", 1)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    adders = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
    for name, value in settings.items():
        adders.get(type(value), writer.add_array)(f"tokenizer.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def byte_level_file(path: Path, architecture: str = "llama", **settings: Any) -> Path:
    tokens, merges = byte_level_vocabulary()
    special = ["<|end|>", "<|user|>", "<think>"]
    if architecture == "gpt-oss":
        special[1:] = ["<|call|>", "<|return|>"]
    return write_file(
        path,
        [*special, *tokens],
        [CONTROL, CONTROL, USER_DEFINED, *[NORMAL] * len(tokens)],
        {
            "ggml.model": "gpt2",
            "ggml.merges": list(merges),
            "ggml.bos_token_id": 1,
            "ggml.eos_token_id": 0,
        }
        | {name.replace("__", "."): value for name, value in settings.items()},
        architecture,
    )


def ours(path: Path, folder: Path) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    write_tokenizer(read_vocabulary(read_gguf(path)), folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


# transformers cuts for these as for GPT-2; whose cutting is theirs, by llama.cpp.
_READ_AS_GPT_2 = {"stablelm2": "qwen2", "hunyuan": "qwen2", "glm4": "dbrx", "chatglm-bpe": "dbrx"}
_KNOWN = [name for name in SPLITTINGS if name not in (*WHOLE_WORDS, "seed-coder")]


@pytest.mark.parametrize("pre", _KNOWN)
def test_ids_of_byte_level_tokenizers_are_those_of_transformers(tmp_path: Path, pre: str) -> None:
    path = byte_level_file(tmp_path / "a.gguf", ggml__pre=pre, ggml__add_bos_token=False)
    came = ids_of(ours(path, tmp_path / "files"))
    if pre in _READ_AS_GPT_2:
        known = _READ_AS_GPT_2[pre]
        path = byte_level_file(tmp_path / "b.gguf", ggml__pre=known, ggml__add_bos_token=False)
    assert came == theirs(path, digits_apart=SPLITTINGS[pre].single_digits)


def test_signs_of_seed_coder_take_no_lines_behind_them(tmp_path: Path) -> None:
    path = byte_level_file(tmp_path / "a.gguf", ggml__pre="seed-coder")
    cutting = ours(path, tmp_path / "files").pre_tokenizer
    came = [piece for piece, _ in cutting.pre_tokenize_str("it's 12 ...\n\nA\t b")]
    assert came == ["it", "'s", "Ġ", "1", "2", "Ġ...", "ĊĊ", "A", "ĉ", "Ġb"]


@pytest.mark.parametrize("pre", ["llama-bpe", "tekken"])
def test_a_word_that_is_a_token_is_that_token(tmp_path: Path, pre: str) -> None:
    """So do the models' own files say it (`ignore_merges`); transformers' reading forgets it."""
    path = byte_level_file(tmp_path / "a.gguf", ggml__pre=pre, ggml__add_bos_token=False)
    tokenizer = ours(path, tmp_path / "files")
    came = ids_of(tokenizer)
    tokenizer.model.ignore_merges = False
    assert ids_of(tokenizer) == theirs(path)
    texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in came]
    assert texts == list(lines())


def test_qwen_composes_characters_as_its_own_tokenizer_does(tmp_path: Path) -> None:
    path = byte_level_file(tmp_path / "a.gguf", ggml__pre="qwen2")
    tokens, merges = byte_level_vocabulary()
    own = Qwen2Tokenizer(
        vocab={token: index + 3 for index, token in enumerate(tokens)},
        merges=[tuple(merge.split(" ")) for merge in merges],
    )
    for text in ("e\u0301te\u0301", "Vie\u0323\u0302t Nam", "\u1112\u1161\u11ab", "plain"):
        assert ours(path, tmp_path / "files").encode(text).ids == own(text)["input_ids"]


def sentencepiece_file(
    path: Path, architecture: str = "llama", added: tuple[str, ...] = (), **settings: Any
) -> tuple[Path, dict[str, Any]]:
    """The shipped model's tokenizer, as llama.cpp keeps such: a score for each token.

    `added` tokens lie behind the others, with a score of another kind, and are user-defined.
    """
    own = json.loads((MODELS / "stories260k" / "tokenizer.json").read_text())
    vocabulary = own["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    ranks = {"".join(merge): -float(rank) for rank, merge in enumerate(own["model"]["merges"])}
    lowest = min(ranks.values()) - 1
    types = [
        BYTE if token.startswith("<0x") else {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
        .get(token, NORMAL)
        for token in tokens
    ]  # fmt: skip
    types += [USER_DEFINED] * len(added)
    scores = [ranks.get(token, lowest) for token in tokens] + [-1000.0] * len(added)
    tokens += added
    written = {
        "ggml.model": "llama",
        "ggml.scores": scores,
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.unknown_token_id": 0,
    } | {name.replace("__", "."): value for name, value in settings.items()}
    return write_file(path, tokens, types, written, architecture), own


def test_ids_of_sentencepiece_tokenizers_are_those_of_transformers(tmp_path: Path) -> None:
    path, _ = sentencepiece_file(tmp_path / "a.gguf")
    tokenizer = ours(path, tmp_path / "files")
    assert ids_of(tokenizer) == theirs(path)
    own = Tokenizer.from_file(str(MODELS / "stories260k" / "tokenizer.json"))
    # Where a text begins with a space, this file adds another and transformers does not.
    usual = [line for line in lines() if not line.startswith(" ") and "\u2581" not in line]
    assert [tokenizer.encode(t).ids for t in usual] == [own.encode(t).ids for t in usual]


def test_a_space_before_the_text_is_left_out_where_the_file_says_so(tmp_path: Path) -> None:
    path, _ = sentencepiece_file(tmp_path / "a.gguf", ggml__add_space_prefix=False)
    tokenizer = ours(path, tmp_path / "files")
    assert tokenizer.encode("once").tokens[1] != "▁once"
    assert tokenizer.decode(tokenizer.encode(" once").ids) == " once"


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "phi3"])
def test_ids_of_families_of_sentencepiece_are_those_of_transformers(
    tmp_path: Path, architecture: str
) -> None:
    added = ("  ", "   ", "<b>") if architecture != "phi3" else ()
    settings = {"ggml__add_space_prefix": False} if added else {}
    path, _ = sentencepiece_file(tmp_path / "a.gguf", architecture, added, **settings)
    came = ids_of(ours(path, tmp_path / "files"))
    assert came == theirs(path)
    llama, _ = sentencepiece_file(tmp_path / "b.gguf", "llama", added, **settings)
    assert came != ids_of(ours(llama, tmp_path / "files"))


def test_a_tokenizer_of_gemma_4_has_its_merges_in_the_file_and_begins_no_text(
    tmp_path: Path,
) -> None:
    own = json.loads((MODELS / "stories260k" / "tokenizer.json").read_text())["model"]
    settings = {"ggml__merges": [" ".join(merge) for merge in own["merges"]]}
    settings |= {"ggml__model": "gemma4", "ggml__add_space_prefix": False}
    path, _ = sentencepiece_file(
        tmp_path / "a.gguf", "gemma4", ("<|x|>",), ggml__add_bos_token=True, **settings
    )
    tokenizer = ours(path, tmp_path / "files")
    assert ids_of(tokenizer) == theirs(path)
    assert tokenizer.encode("once").ids == tokenizer.encode("once", add_special_tokens=False).ids


def test_spaces_and_lines_behind_an_added_token_of_phi_3_are_a_part_of_it(tmp_path: Path) -> None:
    """As its own tokenizer has them, and llama.cpp; transformers' reading of a file has not."""
    path, _ = sentencepiece_file(tmp_path / "a.gguf", "phi3", ("<|user|>", "<|endoftext|>"))
    tokenizer = ours(path, tmp_path / "files")
    assert tokenizer.encode("<|user|>\n once").ids == tokenizer.encode("<|user|>once").ids
    assert tokenizer.encode("<|endoftext|>\nonce").tokens[2:4] == ["▁", "<0x0A>"]


@pytest.mark.parametrize(
    ("settings", "before", "behind"),
    [
        ({"ggml__pre": "gpt-2"}, [], []),
        ({"ggml__pre": "gpt-2", "ggml__add_bos_token": True}, [1], []),
        ({"ggml__pre": "gpt-2", "ggml__add_eos_token": True}, [], [0]),
        ({"ggml__pre": "llama-bpe"}, [1], []),
        ({"ggml__pre": "llama-bpe", "ggml__add_bos_token": False}, [], []),
    ],
)
def test_what_begins_and_ends_a_text_is_put_there(
    tmp_path: Path, settings: dict[str, Any], before: list[int], behind: list[int]
) -> None:
    tokenizer = ours(byte_level_file(tmp_path / "a.gguf", **settings), tmp_path / "files")
    plain = tokenizer.encode("some text", add_special_tokens=False).ids
    assert tokenizer.encode("some text").ids == [*before, *plain, *behind]


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({}, (0,)),
        ({"ggml__eot_token_id": 1}, (0, 1)),
        ({"ggml__eos_token_id": 1}, (1,)),
        # A template that writes another end of turn than the file's end of text.
        ({"ggml__eos_token_id": 1, "chat_template": "{{ 'x<|end|>' }}"}, (1, 0)),
        ({"ggml__eos_token_id": 70_000}, ()),
    ],
)
def test_the_ids_that_end_an_answer_are_the_files(
    tmp_path: Path, settings: dict[str, Any], ends: tuple[int, ...]
) -> None:
    path = byte_level_file(tmp_path / "a.gguf", ggml__pre="gpt-2", **settings)
    ours(path, tmp_path / "files")
    assert special_tokens(tmp_path / "files", {}, 2000).eos_token_ids == ends


def test_a_message_of_gpt_oss_is_no_end_of_its_answer(tmp_path: Path) -> None:
    """Its thoughts end with `<|end|>`, which its template writes and the answer goes on behind."""
    template = "{{ '<|end|>' }}"
    path = byte_level_file(
        tmp_path / "a.gguf", "gpt-oss", ggml__eos_token_id=2, chat_template=template
    )
    ours(path, tmp_path / "files")
    ends = special_tokens(tmp_path / "files", {}, 2000).eos_token_ids
    assert ends[:2] == (2, 1)
    assert 0 not in ends


def test_the_chat_template_and_the_names_it_uses_are_the_files(tmp_path: Path) -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    path = byte_level_file(tmp_path / "a.gguf", ggml__pre="gpt-2", chat_template=source)
    ours(path, tmp_path / "files")
    template = load_chat_template(tmp_path / "files")
    try:
        rendered = template.render([{"role": "user", "content": "hi"}])
    finally:
        template.close()
    assert rendered.text == "<|user|>hi<|end|>"
    reference = AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
    messages = [{"role": "user", "content": "hi"}]
    assert reference.apply_chat_template(messages, tokenize=False) == rendered.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ggml__model": "bert"}, "tokenizer 'bert' is not supported"),
        ({"ggml__pre": "of-tomorrow"}, "'of-tomorrow', is not known; known: default, gpt-2"),
    ],
)
def test_another_kind_of_tokenizer_is_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    path = byte_level_file(tmp_path / "a.gguf", **settings)
    with pytest.raises(UnsupportedModelError, match=said):
        ours(path, tmp_path / "files")


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    path = byte_level_file(tmp_path / "a.gguf", ggml__merges=["no such"])
    with pytest.raises(CheckpointError, match="its tokenizer is not valid"):
        ours(path, tmp_path / "files")
    path = write_file(tmp_path / "b.gguf", ["a"], [1, 1], {"ggml.model": "llama"})
    with pytest.raises(CheckpointError, match="1 tokens, but 2 types"):
        ours(path, tmp_path / "files")
    path = write_file(tmp_path / "c.gguf", ["a"], [1], {"ggml.model": "llama"})
    with pytest.raises(CheckpointError, match="a score for each token"):
        ours(path, tmp_path / "files")
