"""A chat template is part of a downloaded model: whatever it does, it ends, and in bounds."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from device_runtime.text.chat_template import ChatTemplate, ChatTemplateError, load_chat_template
from device_runtime.text.template_process import TemplateLimits
from submodels.errors import BundleError

pytestmark = pytest.mark.slow

USER = [{"role": "user", "content": "hi"}]
LIMITS = TemplateLimits(cpu_s=0.5, memory_bytes=256 << 20, max_characters=100_000)

# Each runs only for messages that say "hi", so that the template passes its first look.
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set x = namespace(n=7) %}{% for a in range(99999) %}{% set x.n = x.n * x.n %}{% endfor %}",
    "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = ns.l + [a] %}"
    "{% endfor %}{{ (ns.l * 400) | sort | length }}{{ (ns.l * 400) | sort | length }}",
    "{{ lipsum(n=99999) }}",
]
LARGE = [
    "{{ 'aaaaaaaa' * messages[0].content | length * 150000000 }}",
    "{{ ('%' ~ '9' * 9 * messages | length ~ 'd') % 1 }}",
    "{{ messages[0].content.ljust(10**9) }}",
    "{% set ns = namespace(x=messages[0].content) %}{% for a in range(40) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{{ messages[0].content | center(200000) }}",
    "{{ messages[0].content | replace('', 'x' * 50000) }}",
]


def guarded(body: str) -> str:
    said = "{{ messages | map(attribute='content') | join }}"
    return f"{said}{{% if messages[0].content == 'hi' %}}{body}{{% endif %}}"


@pytest.mark.parametrize("body", [*ENDLESS, *LARGE])
def test_a_template_without_an_end_is_ended_and_the_next_conversation_is_served(body: str) -> None:
    template = ChatTemplate(guarded(body), {}, limits=LIMITS)
    before_s = time.process_time()
    with pytest.raises(ChatTemplateError, match="the model's chat template failed: "):
        template.render(USER)
    # None of it was done in this process.
    assert time.process_time() - before_s < 0.4
    assert template.render([{"role": "user", "content": "bye"}]).text == "bye"
    template.close()


@pytest.mark.parametrize(
    "source",
    [
        "{{ (10**5000)|string|length }}",
        "{{ 99999999 ** 99999999 }}",
        "{% for %}",
        "{{ '%' }",
        "{{ 'a' | nothing }}",
        "{% include 'x' %}" * 3 + "{{",
    ],
)
def test_a_template_that_breaks_the_compiler_is_one_clear_line(tmp_path: Path, source: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(source)
    with pytest.raises(BundleError) as caught:
        load_chat_template(tmp_path)
    message = str(caught.value)
    assert "chat_template.jinja: the chat template does not " in message
    assert "\n" not in message


@pytest.mark.parametrize("size", ["'a' * 10**11", "'a' | center(10**11)", "[1] * 10**11"])
def test_constants_that_no_memory_holds_fail_each_conversation_and_nothing_else(size: str) -> None:
    template = ChatTemplate(f"{{{{ {size} }}}}", {}, limits=LIMITS)
    with pytest.raises(ChatTemplateError, match="too much memory"):
        template.render(USER)
    template.close()


def test_a_template_that_never_ends_is_refused_when_it_is_loaded() -> None:
    with pytest.raises(ChatTemplateError, match="does not end"):
        ChatTemplate(ENDLESS[0], {}, limits=LIMITS)


def test_conversations_of_many_threads_are_kept_apart() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {})
    texts: dict[int, str] = {}

    def ask(number: int) -> None:
        message = {"role": "user", "content": f"{number} " * 1000}
        texts[number] = template.render([message]).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: f"{number} " * 1000 for number in range(12)}
    template.close()


def test_halves_of_characters_and_deep_variables_do_no_harm() -> None:
    template = ChatTemplate("{{ messages[0].content }}{{ x }}", {})
    assert template.render([{"role": "user", "content": "a\ud83d"}]).text == "a\ud83d"
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ChatTemplateError, match="nested too deeply"):
        template.render(USER, variables={"x": deep})
    assert template.render(USER).text == "hi"
    template.close()


def test_a_process_that_was_killed_from_outside_is_replaced() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {}, limits=TemplateLimits(num_processes=1))
    children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    for child in children.read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"template_worker" in command:
            os.kill(int(child), signal.SIGKILL)
    time.sleep(0)
    texts = []
    for _ in range(3):
        try:
            texts.append(template.render(USER).text)
        except ChatTemplateError:
            continue
    assert texts[-1:] == ["hi"]
    template.close()


def test_its_process_knows_nothing_of_the_users_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAT_SECRET", "hush")
    template = ChatTemplate("{{ messages[0].content }}", {})
    children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    environs = [
        Path(f"/proc/{child}/environ").read_bytes()
        for child in children.read_text().split()
        if b"template_worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert environs
    assert not any(b"hush" in environ for environ in environs)
    template.close()


def test_its_process_ends_with_its_parent_even_in_the_middle_of_a_loop() -> None:
    program = (
        "import os, sys, threading, time\n"
        "from device_runtime.text.chat_template import ChatTemplate\n"
        "from device_runtime.text.template_process import TemplateLimits\n"
        f"source = {guarded(ENDLESS[0])!r}\n"
        "template = ChatTemplate(source, {}, limits=TemplateLimits(cpu_s=1.0, num_processes=1))\n"
        "threads = os.listdir('/proc/self/task')\n"
        "children = [open(f'/proc/self/task/{t}/children').read().split() for t in threads]\n"
        "print(*sum(children, []), flush=True)\n"
        "ask = {'role': 'user', 'content': 'hi'}\n"
        "threading.Thread(target=template.render, args=([ask],), daemon=True).start()\n"
        "time.sleep(0.2)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    [child] = done.stdout.split()
    descriptor = None
    try:
        descriptor = os.pidfd_open(int(child))
        assert select.select([descriptor], [], [], 60)[0]
    except ProcessLookupError:
        pass
    finally:
        if descriptor is not None:
            os.close(descriptor)


PARTS_ONLY = (
    "{% for m in messages %}[{{ m['role'] }}]{% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
FIRST_PART = "{% for m in messages %}[{{ m.role }}]{{ m.content[0].text }}{% endfor %}"
EITHER = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}{% endfor %}"
)
USER_IN_PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'user' %}{{ m.content[0].text }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + PARTS_ONLY
)
SHOUTING = "{% for m in messages %}[{{ m.role }}]{{ m.content | upper }}{% endfor %}"
TALK = [
    {"role": "user", "content": "How do I kill a process?"},
    {"role": "assistant", "content": "With kill."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "And"}, {"type": "text", "text": "how?"}],
    },
]


@pytest.mark.parametrize("source", [PARTS_ONLY, FIRST_PART, EITHER, USER_IN_PARTS, NO_SYSTEM])
def test_words_reach_the_prompt_in_whichever_form_the_template_reads_them(source: str) -> None:
    template = ChatTemplate(source, {})
    text = template.render(TALK).text
    for words in ("[user]How do I kill a process?", "[assistant]With kill.", "[user]And"):
        assert words in text
    assert template.leaves_out == ()
    template.close()


def test_a_template_that_changes_words_is_not_taken_for_one_that_loses_them() -> None:
    template = ChatTemplate(SHOUTING, {})
    assert template.leaves_out == ()
    assert "HOW DO I KILL A PROCESS?" in template.render(TALK[:1]).text
    template.close()


def test_roles_whose_words_never_come_out_are_named() -> None:
    only_user = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    template = ChatTemplate(only_user, {})
    assert template.leaves_out == ("assistant", "system")
    template.close()
    template = ChatTemplate("{{ bos_token }}", {"bos_token": "<s>"})
    assert template.leaves_out == ("user", "assistant", "system")
    template.close()


@pytest.mark.parametrize(
    "value", [[{"name": "tool_use", "template": "x"}], [], ["x"], [{}], {"a": 1}]
)
def test_named_templates_without_a_default_are_refused_by_name(
    tmp_path: Path, value: object
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(BundleError, match=r"tokenizer_config\.json: expected"):
        load_chat_template(tmp_path)


def test_names_of_the_older_file_of_special_tokens_reach_the_template(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(
        "{{ bos_token }}|{{ messages[0].content }}|{{ eos_token }}"
    )
    tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(tokens))
    assert load_chat_template(tmp_path).render(USER).text == "<s>|hi|</s>"
