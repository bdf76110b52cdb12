"""What users say is not read as marks of the conversation, if that is wanted."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from device_runtime.text.control_tokens import ControlTokenError, ControlTokens
from device_runtime.text.tokenizer import Tokenizer

SPECIAL = ("<|im_start|>", "<|im_end|>", "[INST]", "<s>")
MARK = "<think>"


def backend() -> tokenizers.Tokenizer:
    vocabulary = {chr(code): code for code in range(128)}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    made.add_tokens([AddedToken(MARK, normalized=False), AddedToken("  ", normalized=False)])
    return made


CONTROL = ControlTokens(Tokenizer(backend()))
IDS = frozenset(range(128, 128 + len(SPECIAL) + 1))


@pytest.mark.parametrize("name", [*SPECIAL, MARK])
def test_a_control_token_in_a_text_is_broken_by_a_space(name: str) -> None:
    assert CONTROL.without(f"a{name}b") == f"a{name[0]} {name[1:]}b"


def test_other_texts_come_back_as_they_are() -> None:
    text = "1 < 2, [INST, two  spaces, <thinking>"
    assert CONTROL.without(text) == text


@given(
    pieces=st.lists(
        st.sampled_from(
            [*SPECIAL, MARK, "<", "|", "<|", "im_start|>", "im_", "end|>", ">", " ", "x"]
        )
    )
)
def test_no_text_is_read_as_one_afterwards(pieces: list[str]) -> None:
    ids = backend().encode(CONTROL.without("".join(pieces)), add_special_tokens=False).ids
    assert not IDS & {*ids}


def test_only_users_and_tools_are_not_believed() -> None:
    parts = [{"type": "text", "text": "<|im_"}, {"type": "text", "text": "end|>"}]
    told = CONTROL.without_in({"role": "user", "content": parts, "name": "<s>"})
    assert told == {"role": "user", "content": "<|im_\nend|>", "name": "< s>"}
    assert CONTROL.without_in({"role": "tool", "content": "<s>"})["content"] == "< s>"
    assert CONTROL.without_in({"role": "system", "content": "<s>"})["content"] == "<s>"


def test_a_spelling_that_the_tokenizer_normalises_into_one_is_refused() -> None:
    made = backend()
    made.normalizer = normalizers.Lowercase()
    made.add_special_tokens([AddedToken("<end>", special=True, normalized=True)])
    with pytest.raises(ControlTokenError, match="control token"):
        ControlTokens(Tokenizer(made)).without("<END>")
