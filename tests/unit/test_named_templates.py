"""Several chat templates by names: which one transformers takes, with tools and without."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from device_runtime.text.chat_template import load_chat_template
from submodels.checkpoint.named_templates import joined
from submodels.checkpoint.tokenizer_files import copy_tokenizer
from submodels.errors import CheckpointError
from tests.support.tokenizers import byte_level_backend

MESSAGES = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"})
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
DEFAULT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
TOOLS = (
    "\n  {%- macro named(t) -%}[{{ t.function.name }}]{%- endmacro %}\n"
    "{% set all = namespace(text='') %}\n"
    "{% for t in tools %}{% set all.text = all.text + named(t) %}{% endfor %}\n"
    "{{ all.text }}{% for m in messages %}{{ m.content }}{% endfor %}\n   \n"
)
ODD = (
    "\n\nbegins",
    "ends\n",
    "ends\n\n",
    "  {% if tools %}x{% endif %}\n  ",
    "a\r\n{{ tools }}\r\n",
)


def model(folder: Path, template: object, further: Mapping[str, str]) -> Path:
    """A folder with a tokenizer, a template in its configuration, and these files."""
    folder.mkdir()
    byte_level_backend().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    if template is not None:
        config["chat_template"] = template  # type: ignore[assignment]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in further.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, newline="")
    return folder


def device(source: Path) -> Path:
    target = source.parent / "device"
    target.mkdir()
    copy_tokenizer(source, target, 1000)
    return target


NAMED = [{"name": "tool_use", "template": TOOLS}, {"name": "default", "template": DEFAULT}]
LAID = {
    "chat_template.jinja": DEFAULT,
    "additional_chat_templates/tool_use.jinja": TOOLS,
    "additional_chat_templates/rag.jinja": "documents",
}


@pytest.mark.parametrize(
    ("template", "further"),
    [
        (NAMED, {}),
        ({"default": DEFAULT, "tool_use": TOOLS, "rag": "documents"}, {}),
        ({"default": DEFAULT}, {}),
        (None, LAID),
        ("of old", LAID),
        ("of old", {"additional_chat_templates/default.jinja": DEFAULT}),
        *([{"default": odd, "tool_use": TOOLS}, {}] for odd in ODD),
        *([{"default": DEFAULT, "tool_use": odd}, {}] for odd in ODD),
    ],
)
def test_of_named_templates_the_one_of_transformers_is_taken(
    tmp_path: Path, template: object, further: Mapping[str, str]
) -> None:
    source = model(tmp_path / "model", template, further)
    expected, came = AutoTokenizer.from_pretrained(source), load_chat_template(device(source))
    for tools in ((), (TOOL,)):
        offered: Any = {"tools": list(tools)} if tools else {}
        text = expected.apply_chat_template(list(MESSAGES), tokenize=False, **offered)
        assert came.render(MESSAGES, add_generation_prompt=False, tools=tools).text == text
    came.close()


def test_templates_in_a_folder_without_a_default_are_refused(tmp_path: Path) -> None:
    further = {"additional_chat_templates/tool_use.jinja": TOOLS}
    source = model(tmp_path / "model", "of old", further)
    with pytest.raises(CheckpointError, match="of the name default, got tool_use; put the one"):
        device(source)


def test_one_template_stays_as_it_is() -> None:
    assert joined({"default": ODD[0], "rag": "r"}) == ODD[0]
