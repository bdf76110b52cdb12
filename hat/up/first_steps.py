"""What `hat up` prints once both sides are ready: commands that work when pasted."""

import json
import shlex
from pathlib import Path

from hat.invocation import command_line
from hat.settings.sources import Given

DEFAULT_URL = "http://127.0.0.1:8000/v1"

_STORY = {"prompt": "Once upon a time", "max_tokens": 60, "temperature": 0}
_STORY_CHAT = {
    "messages": [{"role": "user", "content": "Once upon a time, there was a little dog"}],
    "max_tokens": 60,
}
_CHAT = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 100,
    "temperature": 0,
}


def first_steps(address: str, api_key: Given, is_chat_model: bool) -> str:
    """A few lines of text: the endpoint, requests to paste, and how to chat and stop.

    Args:
        address: Host and port of the endpoint.
        api_key: The key it asks for, if any; it is not shown.
        is_chat_model: Whether its model answers, or only continues.
    """
    url = f"http://{address}/v1"
    body = _CHAT if is_chat_model else _STORY_CHAT
    requests = [_curl(f"{url}/chat/completions", api_key, body)]
    if not is_chat_model:
        requests.insert(0, _curl(f"{url}/completions", api_key, _STORY))
    arguments = [] if url == DEFAULT_URL else [f"--url={url}"]
    if api_key.file is not None:
        arguments.append(f"--api-key-file={api_key.file}")
    return "\n\n".join(
        [
            f"The endpoint is up: {url}",
            *requests,
            f"Or open {url.removesuffix('v1')} in a browser.\n"
            f"Or talk to it from a second terminal: {command_line('chat', *arguments)}\n"
            "Ctrl-C stops both sides.",
        ]
    )


def has_chat_template(device_bundle: Path) -> bool:
    """Whether the bundle's tokenizer has a chat template."""
    if (device_bundle / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((device_bundle / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def _curl(url: str, api_key: Given, body: dict[str, object]) -> str:
    key = _shown_key(api_key)
    authorization = f' \\\n    -H "Authorization: Bearer {key}"' if key else ""
    return (
        f"  curl {url} -H 'Content-Type: application/json'{authorization} \\\n"
        f"    -d {shlex.quote(json.dumps(body))}"
    )


def _shown_key(api_key: Given) -> str | None:
    """How a shell comes by the key; never the key itself."""
    if api_key.value is None:
        return None
    if api_key.file is not None:
        return f"$(cat {shlex.quote(str(api_key.file))})"
    return f"${api_key.source}"
