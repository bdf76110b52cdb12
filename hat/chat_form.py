"""How a conversation with a bundle's model looks in tokens, by its own chat template."""

from pathlib import Path
from typing import TYPE_CHECKING

from hat.errors import CommandError

if TYPE_CHECKING:
    from adapters.writing.form import ChatForm
    from device_runtime.text.chat_template import ChatTemplate
    from device_runtime.text.tokenizer import Tokenizer
    from submodels.manifest import Manifest

# No template writes it of itself, or changes it.
_WORDS = "qxzhatwords"


def chat_form(bundle: Path) -> "ChatForm":
    """The template's tokens before and behind a user's words; a base model has only a beginning.

    Raises:
        CommandError: the template does not show a user's words as they are.
        BundleError: the bundle's files cannot be read.
    """
    from adapters.writing.form import ChatForm
    from device_runtime.text.tokenizer import load_tokenizer
    from submodels.bundle.bundle import load_bundle

    device = load_bundle(bundle, "device")
    tokenizer = load_tokenizer(device.path)
    vocab = range(device.manifest.shape.vocab_size)
    special = frozenset(token for token in vocab if tokenizer.is_special(token))
    opening, closing, between = _around(device.path, tokenizer, device.manifest)
    ends = frozenset(device.manifest.eos_token_ids)
    if not closing and device.manifest.bos_token_id is not None:
        # Models of packed texts say the next one's beginning.
        ends |= {device.manifest.bos_token_id}
    return ChatForm(opening, closing, ends, between, special)


def prompt_tokens(bundle: Path, prompts: "tuple[str, ...]") -> list[list[int]]:
    """Token ids of prompts, as `hat device` makes them of a first message.

    Raises:
        CommandError: the template refuses a prompt.
        BundleError: the bundle's files cannot be read.
    """
    from device_runtime.text.chat_template import ChatTemplateError
    from device_runtime.text.tokenizer import load_tokenizer
    from submodels.bundle.bundle import load_bundle

    folder = load_bundle(bundle, "device").path
    tokenizer, template = load_tokenizer(folder), _template(folder)
    try:
        rendered = [template.render([{"role": "user", "content": text}]) for text in prompts]
    except ChatTemplateError as error:
        raise CommandError(f"--prompts: {error}") from error
    finally:
        template.close()
    return [tokenizer.encode(one.text, one.add_special_tokens) for one in rendered]


def _around(
    folder: Path, tokenizer: "Tokenizer", manifest: "Manifest"
) -> tuple[tuple[int, ...], ...]:
    """Opening, closing, and what is between an answer and the next question."""
    template = _template(folder)
    try:
        if template.is_plain:
            return _beginning(tokenizer, manifest), (), ()
        text = template.render([{"role": "user", "content": _WORDS}]).text
        between = _between(template)
    finally:
        template.close()
    before, found, behind = text.partition(_WORDS)
    if not found or not before or not behind:
        raise CommandError(
            "this model's chat template shows no place for a user's words; give --prompts or --text"
        )
    return tuple(tuple(tokenizer.encode(part, False)) for part in (before, behind, between))


def _between(template: "ChatTemplate") -> str:
    """The text between an answer and the user's next words; empty where it shows none.

    Templates that leave parts of older answers out are among the latter.
    """
    from device_runtime.text.chat_template import ChatTemplateError

    turns = [("user", "qxzhatfirst"), ("assistant", "qxzhatanswer"), ("user", _WORDS)]
    try:
        text = template.render([{"role": role, "content": words} for role, words in turns]).text
    except ChatTemplateError:
        return ""
    _, found, behind = text.partition("qxzhatanswer")
    between, also_found, _ = behind.partition(_WORDS)
    return between if found and also_found else ""


def _beginning(tokenizer: "Tokenizer", manifest: "Manifest") -> tuple[int, ...]:
    """What a base model's texts begin with: what the tokenizer puts there, else their end."""
    first = tokenizer.encode("")
    if first:
        return tuple(first[:1])
    if manifest.bos_token_id is not None:
        return (manifest.bos_token_id,)
    if manifest.eos_token_ids:
        return tuple(manifest.eos_token_ids[:1])
    raise CommandError("this model has no token that a text begins with; give --prompts or --text")


def _template(folder: Path) -> "ChatTemplate":
    from device_runtime.text.chat_template import load_chat_template

    return load_chat_template(folder)
