"""What `hat up` prints once both sides are ready: commands that work when pasted."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from hat.invocation import command_line
from hat.settings.sources import Given

DEFAULT_URL = "http://127.0.0.1:8000/v1"

_STORY = {"prompt": "Once upon a time", "max_tokens": 60, "temperature": 0}
_STORY_CHAT = {
    "messages": [{"role": "user", "content": "Once upon a time, there was a little dog"}],
    "max_tokens": 60,
}
_CHAT = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 200}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The HTTP endpoint, the key it asks for, and whether its model answers or only continues."""

    address: str
    api_key: Given
    is_chat_model: bool

    @property
    def url(self) -> str:
        """What OpenAI clients call the base URL."""
        return f"http://{self.address}/v1"


def first_steps(endpoint: Endpoint) -> str:
    """A few lines of text: the endpoint, requests to paste, and how to chat and stop."""
    chat = _curl(endpoint, "chat/completions", _CHAT if endpoint.is_chat_model else _STORY_CHAT)
    requests = [chat] if endpoint.is_chat_model else [_curl(endpoint, "completions", _STORY), chat]
    return "\n\n".join(
        [
            f"The endpoint is up: {endpoint.url}",
            *requests,
            f"Or talk to it from a second terminal: {_chat_command(endpoint)}\n"
            "Ctrl-C stops both sides.",
        ]
    )


def is_chat_model(device_bundle: Path) -> bool:
    """Whether the bundle's tokenizer has a chat template."""
    if (device_bundle / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((device_bundle / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def _curl(endpoint: Endpoint, path: str, body: dict[str, object]) -> str:
    key = _shown_key(endpoint.api_key)
    authorization = f' \\\n    -H "Authorization: Bearer {key}"' if key else ""
    return (
        f"  curl {endpoint.url}/{path} -H 'Content-Type: application/json'{authorization} \\\n"
        f"    -d {shlex.quote(json.dumps(body))}"
    )


def _shown_key(api_key: Given) -> str | None:
    """How a shell comes by the key; never the key itself."""
    if api_key.value is None:
        return None
    if api_key.file is not None:
        return f"$(cat {shlex.quote(str(api_key.file))})"
    return f"${api_key.source}"


def _chat_command(endpoint: Endpoint) -> str:
    arguments = [] if endpoint.url == DEFAULT_URL else [f"--url={endpoint.url}"]
    if endpoint.api_key.file is not None:
        arguments.append(f"--api-key-file={endpoint.api_key.file}")
    return command_line("chat", *arguments)
