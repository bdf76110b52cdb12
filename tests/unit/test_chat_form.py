"""How a conversation looks in tokens, by a model's own chat template."""

from pathlib import Path

import pytest

from device_runtime.text.tokenizer import load_tokenizer
from hat.chat_form import chat_form, prompt_tokens
from hat.errors import CommandError
from submodels.random_models import RandomModel, make_random_model
from tests.support.split_models import split

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bundle(folder: Path, template: str | None) -> Path:
    make_random_model(RandomModel(), folder / "model")
    if template is not None:
        (folder / "model" / "chat_template.jinja").write_text(template)
    split(folder / "model", folder / "split", 1)
    return folder / "split"


def test_a_template_is_cut_around_the_users_words(tmp_path: Path) -> None:
    folder = bundle(tmp_path, CHATML)
    form, tokenizer = chat_form(folder), load_tokenizer(folder / "device")
    words = tokenizer.encode("the cat", add_special_tokens=False)
    tokens = [*form.opening, *words, *form.closing]
    assert tokenizer.decode(tokens, skip_special_tokens=False) == (
        "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt_tokens(folder, ("the cat",)) == [tokens]
    between = tokenizer.decode(form.between, skip_special_tokens=False)
    assert between == "<|im_end|>\n<|im_start|>user\n"
    assert form.turn_end_ids == form.end_token_ids | {form.closing[0]}


def test_a_base_model_has_only_a_beginning(tmp_path: Path) -> None:
    folder = bundle(tmp_path, None)
    form = chat_form(folder)
    assert (len(form.opening), form.closing, form.between) == (1, (), ())
    assert form.opening[0] in form.special_token_ids
    first = load_tokenizer(folder / "device").encode("the cat")
    assert prompt_tokens(folder, ("the cat",)) == [first]


def test_a_template_that_hides_the_users_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no place for a user's words"):
        chat_form(bundle(tmp_path, "hello"))
