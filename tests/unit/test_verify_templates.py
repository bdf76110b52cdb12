"""`hat verify` compares what conversations become with transformers' own rendering."""

import json
import shutil
from pathlib import Path

import pytest

from device_runtime.text.chat_template import ChatTemplate, load_chat_template
from hat.verify.templates import template_check
from tests.support.tokenizers import MODEL_FOLDER

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for c in m.content %}{{ c.text }}{% endfor %}"
    "{% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}" + CHATML


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL_FOLDER, tmp_path / "model"))


@pytest.mark.parametrize("source", [CHATML, PARTS, NO_SYSTEM])
def test_what_the_checkpoints_files_say_is_rendered_alike(model: Path, source: str) -> None:
    (model / "chat_template.jinja").write_text(source)
    template = load_chat_template(model)
    check = template_check(model, template)
    assert (check.verdict, check.details) == ("ok", ())
    template.close()


def test_a_processors_template_is_rendered_alike(model: Path) -> None:
    (model / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}))
    template = load_chat_template(model)
    check = template_check(model, template)
    assert (check.verdict, "conversations" in check.line) == ("ok", True)
    template.close()


def test_names_of_the_older_file_are_rendered_alike(model: Path) -> None:
    (model / "chat_template.jinja").write_text(CHATML)
    config = json.loads((model / "tokenizer_config.json").read_text())
    kept = {name: value for name, value in config.items() if not name.endswith("_token")}
    (model / "tokenizer_config.json").write_text(json.dumps(kept))
    template = load_chat_template(model)
    assert template.render([{"role": "user", "content": "hi"}]).text.startswith("<s>")
    assert template_check(model, template).verdict == "ok"
    template.close()


def test_another_text_fails_by_its_conversation(model: Path) -> None:
    (model / "chat_template.jinja").write_text(CHATML)
    template = ChatTemplate(CHATML, {})
    check = template_check(model, template)
    assert check.verdict == "FAILED"
    assert "conversation 1 (user) becomes another text" in check.details
    template.close()


def test_a_template_on_one_side_only_fails(model: Path) -> None:
    assert template_check(model, ChatTemplate(None, {})).verdict == "ok"
    template = ChatTemplate(CHATML, {})
    assert template_check(model, template).verdict == "FAILED"
    (model / "chat_template.jinja").write_text(CHATML)
    assert template_check(model, ChatTemplate(None, {})).verdict == "FAILED"
    template.close()
