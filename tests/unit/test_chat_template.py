"""Chat templates: the names models rely on, special tokens, and what fails."""

import json
from datetime import datetime

import pytest

from device_runtime.text.chat_template import ChatTemplate, ChatTemplateError, load_chat_template
from submodels.errors import BundleError

CHATML = (
    "{% for message in messages %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n' }}\n"
    "    {{- message.content | trim + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
USER = {"role": "user", "content": " hi "}


def test_a_chatml_template_renders_as_its_model_was_trained():
    chat = ChatTemplate(CHATML, {}).render([USER])
    assert chat.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert not chat.add_special_tokens


def test_without_a_generation_prompt_the_template_ends_after_the_last_message():
    chat = ChatTemplate(CHATML, {}).render([USER], add_generation_prompt=False)
    assert chat.text == "<|im_start|>user\nhi<|im_end|>\n"


def test_the_plain_template_joins_messages_and_leaves_the_beginning_to_the_tokenizer():
    messages = [{"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."}]
    chat = ChatTemplate(None, {"bos_token": "<s>"}).render(messages)
    assert chat.text == "One.\nTwo."
    assert chat.add_special_tokens


def test_a_template_that_writes_the_beginning_gets_no_second_one():
    chat = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", {"bos_token": "<s>"}).render(
        [USER]
    )
    assert chat.text == "<s> hi "
    assert not chat.add_special_tokens


def test_templates_may_break_loops_tell_the_date_write_json_and_mark_generations():
    source = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y-%m-%d') }} {{ tools is none }}"
    )
    template = ChatTemplate(source, {}, now=lambda: datetime(2026, 11, 20))  # noqa: DTZ001
    message = {"role": "user", "content": "<é>"}
    chat = template.render([message, USER])
    assert chat.text == json.dumps(message, ensure_ascii=False) + "2026-11-20 True"


def test_variables_of_the_request_reach_the_template_but_cannot_replace_special_tokens():
    template = ChatTemplate("{{ bos_token }}{{ enable_thinking }}", {"bos_token": "<s>"})
    chat = template.render([USER], variables={"enable_thinking": False, "bos_token": "x"})
    assert chat.text == "<s>False"
    assert template.reserved_names >= {"messages", "add_generation_prompt", "tools", "bos_token"}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "concatenate"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 / 0 }}", "division"),
    ],
)
def test_what_a_template_refuses_or_fails_at_is_one_kind_of_error(source, reason):
    with pytest.raises(ChatTemplateError, match=reason):
        ChatTemplate(source, {}).render([USER])


def test_a_template_that_does_not_compile_is_refused_when_the_bundle_is_loaded(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(BundleError, match="does not compile"):
        load_chat_template(tmp_path)


def test_special_tokens_may_be_text_or_objects_and_templates_may_be_named(tmp_path):
    config = {
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "add_bos_token": True,
        "chat_template": [
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "{{ bos_token }}{{ eos_token }}"},
        ],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_chat_template(tmp_path).render([USER]).text == "<s></s>"


def test_the_template_file_comes_before_the_configuration(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    (tmp_path / "chat_template.jinja").write_text("new")
    assert load_chat_template(tmp_path).render([USER]).text == "new"


def test_a_bundle_without_tokenizer_configuration_has_the_plain_template(tmp_path):
    assert load_chat_template(tmp_path).is_plain


def test_a_template_that_is_no_text_is_refused_by_its_type(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": 3}')
    with pytest.raises(BundleError, match="got int"):
        load_chat_template(tmp_path)


def test_a_template_that_only_the_processor_has_is_used(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    (tmp_path / "chat_template.json").write_text(
        '{"chat_template": "{{ bos_token }}[{{ messages[0].content }}]"}'
    )
    template = load_chat_template(tmp_path)
    assert template.render([{"role": "user", "content": "hi"}]).text == "<s>[hi]"
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "the tokenizer\'s own"}')
    assert load_chat_template(tmp_path).render([]).text == "the tokenizer's own"
