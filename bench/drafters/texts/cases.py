"""The prompts that drafters are tried on, as the model reads them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.live.plan import is_chat, prompts_for
from bench.workloads.data_files import PromptRow, WorkloadError, prompt_rows
from bench.workloads.prompts import GROUPS
from device_runtime.text.chat_template import load_chat_template
from device_runtime.text.template_process import TemplateLimits
from device_runtime.text.tokenizer import load_tokenizer

STORIES = "stories"
"""The one group of a model that cannot chat: beginnings of stories."""


_LIMITS = TemplateLimits(cpu_s=10, wall_s=120, start_s=300)
"""An evaluation runs on machines that are busy with other things, and renders trusted prompts."""


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt. `number` is the one it has in its source; `group` is one of `GROUPS`."""

    number: int
    group: str
    token_ids: tuple[int, ...]


def group_names(bundles: Path) -> tuple[str, ...]:
    """The groups of prompts that a model is tried on.

    Raises:
        BundleError: its files cannot be read.
    """
    return tuple(GROUPS) if is_chat(bundles, prompts_for(bundles)) else (STORIES,)


def load_cases(
    bundles: Path, groups: Sequence[str], per_group: int, seed: int, max_tokens: int
) -> list[Case]:
    """The first `per_group` prompts of each group, in an order that the seed chooses.

    More prompts with the same seed begin with the same ones. Those of more than `max_tokens` tokens
    are left out. A question is rendered as the device's endpoint renders a user's message; a story
    is a text to go on with.

    Raises:
        BundleError: no sound device bundle.
        WorkloadError: no such group, or not one prompt of it is short enough.
    """
    known = group_names(bundles)
    if unknown := [name for name in groups if name not in known]:
        raise WorkloadError(f"expected groups among {', '.join(known)}, got {', '.join(unknown)}")
    device = bundles / "device"
    tokenizer, template = load_tokenizer(device), load_chat_template(device, _LIMITS)

    def token_ids(row: PromptRow) -> tuple[int, ...]:
        if STORIES in known:
            return tuple(tokenizer.encode(row.text))
        chat = template.render([{"role": "user", "content": row.text}])
        return tuple(tokenizer.encode(chat.text, chat.add_special_tokens))

    cases: list[Case] = []
    try:
        for group in groups:
            found: list[Case] = []
            for row in _rows(group, seed):
                if len(found) == per_group:
                    break
                ids = token_ids(row)
                if len(ids) <= max_tokens:
                    found.append(Case(row.id, group, ids))
            if not found:
                raise WorkloadError(f"{group} has no prompt of {max_tokens} tokens or fewer")
            cases += found
    finally:
        template.close()
    return cases


def _rows(group: str, seed: int) -> list[PromptRow]:
    """A group's prompts, its categories one after the other in turn."""
    source = random.Random(f"{group}/{seed}")
    if group == STORIES:
        rows = list(prompt_rows("tinystories"))
        return source.sample(rows, len(rows))
    everything = prompt_rows("spec_bench")
    turns: list[tuple[int, int, PromptRow]] = []
    for place, category in enumerate(GROUPS[group]):
        own = [row for row in everything if row.category == category]
        mixed = source.sample(own, len(own))
        turns += [(turn, place, row) for turn, row in enumerate(mixed)]
    return [row for _, _, row in sorted(turns, key=lambda each: each[:2])]
