"""`python -m tests.outside.templates FOLDER...`: public chat templates, rendered here and there.

Each template in the folders (*.jinja) renders the conversations of `cases/conversations.py` twice:
as `hat device` does with what a client sends, and by transformers' `apply_chat_template`. Where the
two differ, what hat changes on purpose is done to transformers' messages as well, one change after
the other: a difference that so ends has a reason, and all others are printed one by one. Ends with
1 if there are any. With --examples a difference of each reason is shown.
"""

import copy
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from device_runtime.calling.history import for_template
from device_runtime.calling.words import told_in_words
from device_runtime.text.chat_template import ChatTemplate, ChatTemplateError
from device_runtime.text.content_forms import in_form
from device_runtime.text.template_process import TemplateLimits
from tests.outside.cases.conversations import CONVERSATIONS, Body
from tests.support.rendered_chats import Known, Outcome, Refused, known_template, ours

_SPECIAL = MappingProxyType(
    {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
)
_LIMITS = TemplateLimits(num_processes=1)


@dataclass(frozen=True)
class Asked:
    """What transformers is given."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None
    options: Mapping[str, Any]


def asked(body: Body) -> Asked:
    """The same for transformers, whose calls have objects, as its documentation asks for."""
    continues = body.get("continue_final_message", False)
    options = {
        "add_generation_prompt": body.get("add_generation_prompt", not continues),
        "continue_final_message": continues,
        **body.get("chat_template_kwargs", {}),
    }
    if "reasoning_effort" in body:
        options["reasoning_effort"] = body["reasoning_effort"]
    return Asked(body["messages"], body.get("tools"), options)


def theirs(tokenizer: Any, question: Asked) -> Outcome:
    """What transformers makes of it."""
    try:
        text: str = tokenizer.apply_chat_template(
            copy.deepcopy(list(question.messages)),
            tools=copy.deepcopy(question.tools),
            tokenize=False,
            **question.options,
        )
    except Exception as error:  # noqa: BLE001  (a template raises whatever it does)
        return Refused(f"{type(error).__name__}: {error}")
    return text


def _parts(known: Known, question: Asked) -> Asked:
    forms = known.template.forms
    messages = [
        in_form(m, forms.get(m["role"], "text")) if m.get("content") is not None else m
        for m in question.messages
    ]
    return replace(question, messages=messages)


def _developer(known: Known, question: Asked) -> Asked:
    if known.template.knows_developer:
        return question
    roles = {"developer": "system"}
    messages = [{**m, "role": roles.get(m["role"], m["role"])} for m in question.messages]
    return replace(question, messages=messages)


def _null(_: Known, question: Asked) -> Asked:
    messages = [{**m, "content": ""} if m["content"] is None else m for m in question.messages]
    return replace(question, messages=messages)


def _thoughts(_: Known, question: Asked) -> Asked:
    name = "reasoning_content"
    messages = [{**m, "reasoning": m[name]} if name in m else m for m in question.messages]
    return replace(question, messages=messages)


def _calls(known: Known, question: Asked) -> Asked:
    if known.telling.by_template is None:
        return question
    messages = for_template(question.messages, known.layout, known.telling.by_template)
    return replace(question, messages=messages)


def _words(known: Known, question: Asked) -> Asked:
    if known.telling.by_template is not None:
        return question
    messages = [{**m, "content": m["content"] or ""} for m in question.messages]
    told = told_in_words(messages, question.tools or (), known.layout, known.telling.has_system)
    return replace(question, messages=told, tools=None)


REASONS: Mapping[str, Callable[[Known, Asked], Asked]] = MappingProxyType(
    {
        "developer is the system, where the template does not name it": _developer,
        "null content is an empty text": _null,
        "thoughts are `reasoning` too, as from vLLM": _thoughts,
        "calls are none that hat reads: tools, calls and results are words": _words,
        "calls as the template wants them: arguments as a text, ids of nine characters": _calls,
        "parts, or one text, as the template is found to read them": _parts,
    }
)
"""What hat changes on purpose, in its own order."""

_SILENT = "hat refuses where the template writes nothing of what the user says"


@dataclass
class Tally:
    """What was seen."""

    same: int = 0
    both_refused: int = 0
    explained: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unexplained: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def compare(tally: Tally, name: str, known: Known, tokenizer: Any) -> None:
    """One template over all conversations."""
    for kind, body in CONVERSATIONS.items():
        question = asked(body)
        here, there = ours(known, body), theirs(tokenizer, question)
        if _same(here, there):
            tally.same += isinstance(here, str)
            tally.both_refused += isinstance(here, Refused)
            continue
        why = _reasons(known, tokenizer, question, here)
        difference = f"{name}: {_difference(here, there)}"
        if why is None:
            tally.unexplained[kind].append(difference)
        else:
            tally.explained[f"{kind}: {'; '.join(why)}"].append(difference)


def _reasons(known: Known, tokenizer: Any, question: Asked, here: Outcome) -> list[str] | None:
    """Which changes make transformers' text ours: one if one does, else all that do something."""
    if isinstance(here, Refused) and "user" in known.template.leaves_out:
        return [_SILENT]
    for name, change in REASONS.items():
        if _same(here, theirs(tokenizer, change(known, question))):
            return [name]
    made: list[str] = []
    for name, change in REASONS.items():
        changed = change(known, question)
        if changed != question:
            made.append(name)
            question = changed
    return made if _same(here, theirs(tokenizer, question)) else None


def _same(one: Outcome, other: Outcome) -> bool:
    return one == other or (isinstance(one, Refused) and isinstance(other, Refused))


def _difference(here: Outcome, there: Outcome) -> str:
    if isinstance(here, Refused):
        return f"hat refuses ({here.reason[:200]})"
    if isinstance(there, Refused):
        return f"transformers refuses ({' '.join(there.reason.split())[:200]})"
    place = next(
        (n for n, (a, b) in enumerate(zip(here, there, strict=False)) if a != b),
        min(len(here), len(there)),
    )
    begin = max(0, place - 30)
    return (
        f"at {place}: hat {here[begin : place + 60]!r}, transformers {there[begin : place + 60]!r}"
    )


def _tokenizer(source: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<unk>": 0}, "<unk>")), **_SPECIAL
    )
    tokenizer.chat_template = source
    return tokenizer


def _sources(folders: Iterable[str]) -> dict[str, str]:
    """Each template once."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.jinja")):
            text = path.read_text("utf-8")
            if text not in found.values():
                found[str(path.relative_to(folder))] = text
    return found


def main(folders: Sequence[str], with_examples: bool) -> int:
    """Compare, and say what was seen."""
    warnings.simplefilter("ignore")
    tally, broken = Tally(), []
    sources = _sources(folders)
    for name, source in sources.items():
        try:
            template = ChatTemplate(source, _SPECIAL, limits=_LIMITS)
        except ChatTemplateError as error:
            broken.append(f"{name}: {error}; transformers: {_plainly(source)}")
            continue
        try:
            compare(tally, name, known_template(template), _tokenizer(source))
        finally:
            template.close()
    _tell(tally, len(sources), broken, with_examples)
    return 1 if tally.unexplained else 0


def _plainly(source: str) -> str:
    outcome = theirs(_tokenizer(source), asked(CONVERSATIONS["user"]))
    return "refuses" if isinstance(outcome, Refused) else "renders"


def _tell(tally: Tally, num_templates: int, broken: Sequence[str], with_examples: bool) -> None:
    print(f"{num_templates} templates, {len(CONVERSATIONS)} conversations each")
    print(f"the same text: {tally.same}; refused by both: {tally.both_refused}")
    print(f"not compiled: {len(broken)}", *broken, sep="\n  ")
    print("other texts for a reason:", sum(map(len, tally.explained.values())))
    for why, each in sorted(tally.explained.items()):
        print(f"  {len(each):4} {why}")
        if with_examples:
            print(*each[:3], sep="\n       ")
    print("other texts without one:", sum(map(len, tally.unexplained.values())))
    for kind, each in tally.unexplained.items():
        print(f"  {kind} ({len(each)})", *each, sep="\n    ")


if __name__ == "__main__":
    sys.exit(main([name for name in sys.argv[1:] if name[0] != "-"], "--examples" in sys.argv))
