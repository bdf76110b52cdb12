"""What of a conversation reaches the prompt: roles, refusals, a last message that goes on."""

from typing import Any

import pytest

from device_runtime.text.chat_template import ChatTemplate
from device_runtime.text.control_tokens import ControlTokens
from device_runtime.thinking.marks import THINK
from tests.integration.test_tool_calls import scripted
from tests.support.api_server import CHAT, USER, encoded, make_service, serving, story_server
from tests.support.tokenizers import story_tokenizer

LINES = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
OPENED = LINES + "{% if add_generation_prompt %}[assistant] {% endif %}"
ASSISTANT = {"role": "assistant", "content": "There was a little"}


async def prompt(messages: Any, source: str = OPENED, **fields: Any) -> Any:
    """The text that the model is asked to go on with, or the error."""
    body = {"messages": messages, "max_tokens": 1, **fields}
    async with story_server(template=ChatTemplate(source, {})) as (client, generator):
        status, document = await client.post(CHAT, body)
        if status != 200:
            return document["error"]
        [request] = generator.requests
        asked = {"messages": messages, **fields}
        _, tokens = await client.post("/tokenize", asked)
        assert tokens["tokens"] == list(request.prompt_ids)
    return story_tokenizer().decode(request.prompt_ids)


async def test_the_last_message_goes_on_where_it_ends() -> None:
    conversation = [*USER, ASSISTANT]
    text = f"[user] {USER[0]['content']}\n[assistant] {ASSISTANT['content']}"
    assert await prompt(conversation, continue_final_message=True) == text
    assert await prompt(conversation, add_generation_prompt=False) == text + "\n"
    spaced = [*USER, {**ASSISTANT, "content": "There was a "}]
    assert (await prompt(spaced, continue_final_message=True)).endswith("] There was a ")
    trims = OPENED.replace("m.content", "m.content | trim")
    assert (await prompt(spaced, trims, continue_final_message=True)).endswith("] There was a")
    parts = [*USER, {"role": "assistant", "content": [{"type": "text", "text": "There"}]}]
    assert (await prompt(parts, continue_final_message=True)).endswith("[assistant] There")


async def test_nothing_but_the_assistants_words_goes_on() -> None:
    error = await prompt(USER, continue_final_message=True)
    assert (error["param"], error["code"]) == ("continue_final_message", "invalid_value")
    both = {"continue_final_message": True, "add_generation_prompt": True}
    assert "add_generation_prompt" in (await prompt([*USER, ASSISTANT], **both))["message"]
    deaf = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    error = await prompt([*USER, ASSISTANT], deaf, continue_final_message=True)
    assert error["code"] == "chat_template_failed"


@pytest.mark.parametrize(
    ("begun", "thought", "words"),
    [("<think>Hm,", "so four.", "4"), ("<think>Hm.</think>It is", None, "4")],
)
async def test_thoughts_that_were_begun_go_on(begun: str, thought: str | None, words: str) -> None:
    said = "so four.</think>4" if thought else "4"
    service = scripted_service(said)
    conversation = [*USER, {"role": "assistant", "content": begun}]
    async with serving(service) as client:
        body = {"messages": conversation, "continue_final_message": True}
        _, document = await client.post(CHAT, body)
    message = document["choices"][0]["message"]
    assert (message.get("reasoning"), message["content"]) == (thought, words)


def scripted_service(text: str) -> Any:
    return make_service(scripted(text), template=ChatTemplate(OPENED, {}), thought_marks=THINK)


async def test_a_developer_is_one_where_the_template_knows_the_role() -> None:
    conversation = [{"role": "developer", "content": "Be kind."}, *USER]
    assert (await prompt(conversation)).startswith("[system] Be kind.")
    knowing = OPENED + "{% if messages[0].role == 'developer' %}{% endif %}"
    assert (await prompt(conversation, knowing)).startswith("[developer] Be kind.")
    refusing = OPENED + "{% if 'developer' in messages | map(attribute='role') %}"
    refusing += "{{ raise_exception('who?') }}{% endif %}"
    assert (await prompt(conversation, refusing)).startswith("[system] Be kind.")


async def test_an_earlier_refusal_is_what_the_assistant_said() -> None:
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert "[assistant] No.\n" in await prompt([*USER, refusal, *USER])
    refusal = {"role": "assistant", "content": None, "refusal": "No."}
    assert "[assistant] No.\n" in await prompt([*USER, refusal, *USER])


async def test_hints_that_no_model_knows_are_ignored() -> None:
    assert await prompt(USER, verbosity="low") == await prompt(USER)


async def test_users_write_no_control_tokens_where_that_is_set() -> None:
    control = ControlTokens(story_tokenizer())
    conversation = [{"role": "system", "content": "<s>"}, {"role": "user", "content": "a<s>b"}]
    for sanitizer, num_marks in ((None, 2), (control, 1)):
        changes = {"template": ChatTemplate(LINES, {}), "control_tokens": sanitizer}
        async with story_server(**changes) as (client, generator):
            status, _ = await client.post(CHAT, {"messages": conversation, "max_tokens": 1})
            assert status == 200
        assert list(generator.requests[0].prompt_ids).count(1) == num_marks
    assert encoded("<s>") == [1]
