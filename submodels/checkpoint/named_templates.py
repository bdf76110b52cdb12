"""Chat templates that come by names, as one: the default, and one for conversations with tools.

Source: `get_chat_template` of transformers 5, which takes `tool_use` where there are tools, and
`default` else.
"""

from collections.abc import Mapping
from pathlib import Path

from submodels.errors import CheckpointError

TEMPLATE_FOLDER = "additional_chat_templates"
"""Where newer checkpoints have those beside `chat_template.jinja`."""
_DEFAULT, _TOOLS = "default", "tool_use"


def joined(templates: Mapping[str, str]) -> str:
    """The template that does what those of these names would do.

    Raises:
        ValueError: there is none of the name default.
    """
    default, with_tools = templates.get(_DEFAULT), templates.get(_TOOLS)
    if default is None:
        there = ", ".join(sorted(templates)) or "no name"
        raise ValueError(f"expected a chat template of the name {_DEFAULT}, got {there}")
    if with_tools is None or with_tools == default:
        return default
    return f"{{% if tools %}}{_inner(with_tools)}{{%+ else %}}{_inner(default)}{{%+ endif %}}"


def _inner(template: str) -> str:
    """A template within a block, which begins at the beginning of a line, as it did by itself.

    The newline behind a tag is dropped; one at a template's end would be, and is not here.
    """
    text = template.replace("\r\n", "\n").removesuffix("\n")
    return f"\n{text}"


def folder_template(folder: Path, own: str) -> str | None:
    """The template of a checkpoint that has further ones in a folder; None where it has none.

    `own` is the file with the default. What a configuration says does not count beside these.

    Raises:
        CheckpointError: none of them is the default, or one cannot be read.
    """
    further = sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))
    if not further:
        return None
    try:
        texts = {path.stem: path.read_text(encoding="utf-8") for path in further}
        if (folder / own).is_file():
            texts = {_DEFAULT: (folder / own).read_text(encoding="utf-8"), **texts}
        return joined(texts)
    except ValueError as error:
        raise CheckpointError(
            f"{folder / TEMPLATE_FOLDER}: {error}; put the one to use into {folder / own}"
        ) from error
