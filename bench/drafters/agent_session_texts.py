"""What an agent asks and is answered: one file edited five times, ten tool calls of one shape.

Written for this project.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise

_FILE = '''\
"""A small store of parts: what is there, where it lies, and when to order more."""

import csv
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Part:
    """One kind of part."""

    number: str
    name: str
    shelf: str
    count: int = 0
    least: int = 5

    def is_low(self) -> bool:
        return self.count < self.least


@dataclass
class Store:
    """All parts by their number."""

    parts: dict[str, Part] = field(default_factory=dict)

    def add(self, part: Part) -> None:
        if part.number in self.parts:
            raise ValueError(f"part {part.number} is there already")
        self.parts[part.number] = part

    def take(self, number: str, count: int) -> Part:
        part = self.parts[number]
        if part.count < count:
            raise ValueError(f"only {part.count} of part {number} are left")
        part.count -= count
        return part

    def put(self, number: str, count: int) -> Part:
        part = self.parts[number]
        part.count += count
        return part

    def low_parts(self) -> list[Part]:
        return sorted(
            (part for part in self.parts.values() if part.is_low()),
            key=lambda part: part.name,
        )


def load(path: Path) -> Store:
    """Read a store from a file with one part in each line."""
    store = Store()
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            store.add(
                Part(row["number"], row["name"], row["shelf"], int(row["count"]), int(row["least"]))
            )
    return store


def save(store: Store, path: Path) -> None:
    """Write a store to a file, one part in each line."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "name", "shelf", "count", "least"])
        for part in store.parts.values():
            writer.writerow([part.number, part.name, part.shelf, part.count, part.least])
'''

_EDITS = (
    (
        "take() must refuse a count that is not positive.",
        "        part = self.parts[number]\n        if part.count < count:",
        "        if count <= 0:\n"
        '            raise ValueError(f"count must be positive, got {count}")\n'
        "        part = self.parts[number]\n        if part.count < count:",
    ),
    (
        "Each part needs a price in cents; older files do not have it.",
        "    least: int = 5\n\n    def is_low",
        "    least: int = 5\n    price_cents: int = 0\n\n    def is_low",
    ),
    (
        "Store should tell what everything in it is worth.",
        "    def low_parts(self)",
        "    def worth_cents(self) -> int:\n"
        "        return sum(part.count * part.price_cents for part in self.parts.values())\n\n"
        "    def low_parts(self)",
    ),
    (
        "Sort the parts that are low by shelf, so that they are found in one round.",
        "            key=lambda part: part.name,",
        "            key=lambda part: (part.shelf, part.name),",
    ),
    (
        "save() should write parts in the order of their numbers.",
        "        for part in store.parts.values():",
        "        for _, part in sorted(store.parts.items()):",
    ),
)

_SYSTEM = """\
You are connected to the workshop's assistant. Answer with one call of a tool, as JSON, and nothing
else. Tools: find_part(query, shelf, limit), take_part(number, count, reason),
order_part(number, count, supplier, is_urgent), note(about, text).
"""

_CALLS = (
    ("We need 40 M4 screws, quickly.", "M4-20-A2", 40, "Nordschraub", True),
    ("Order 200 washers, no hurry.", "WA-4-ZN", 200, "Nordschraub", False),
    ("Ten ball bearings 608 are missing for Thursday!", "BB-608-2RS", 10, "Lager Meyer", True),
    ("Please get 5 rolls of PETG in black.", "FIL-PETG-BK", 5, "Filamenta", False),
    ("The laser needs two new lenses today.", "LENS-20-50", 2, "Optik Sand", True),
    ("Restock 100 zip ties.", "ZT-200-BK", 100, "Kabelwelt", False),
    ("30 m of cable 3x1.5, some time this month.", "CAB-3X1.5", 30, "Kabelwelt", False),
    ("Order 8 feet of rubber for the new table.", "FT-RUB-30", 8, "Nordschraub", False),
    ("One spare belt for the mill, it is about to break.", "BELT-GT2-852", 1, "Lager Meyer", True),
    ("We are out of M4 nuts: 60 of them.", "NUT-M4-A2", 60, "Nordschraub", False),
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of an agent and its answer."""

    prompt: str
    answer: str


def edits() -> tuple[Exchange, ...]:
    """The file and a wish, each time in a request of its own; the answer is the whole new file."""
    files = accumulate(_EDITS, lambda file, edit: file.replace(edit[1], edit[2]), initial=_FILE)
    wishes = [wish for wish, _, _ in _EDITS]
    old, new = list(files), 1
    return tuple(
        Exchange(f"Here is store.py:\n\n{old[number]}\nChange it: {wish}\n\n", old[number + new])
        for number, wish in enumerate(wishes)
    )


def rewrites() -> tuple[Exchange, ...]:
    """As `edits`, but that the agent has the file elsewhere: the prompt holds the wish alone."""
    return tuple(
        Exchange(f"Write store.py anew. {wish}\n\n", one.answer)
        for (wish, _, _), one in zip(_EDITS, edits(), strict=True)
    )


def tool_calls() -> tuple[Exchange, ...]:
    """Ten wishes, each in a request of its own behind the same instructions."""
    return tuple(
        Exchange(
            f"{_SYSTEM}\nUser: {wish}\nAssistant: ",
            f'{{"tool": "order_part", "arguments": {{"number": "{number}", "count": {count}, '
            f'"supplier": "{supplier}", "is_urgent": {str(is_urgent).lower()}}}}}',
        )
        for wish, number, count, supplier, is_urgent in _CALLS
    )


def conversation() -> tuple[Exchange, ...]:
    """The same calls as turns of one conversation, whose prompt grows."""
    calls = tool_calls()
    prompts = [calls[0].prompt]
    for before, call in pairwise(calls):
        wish = call.prompt.removeprefix(_SYSTEM)
        prompts.append(f"{prompts[-1]}{before.answer}{wish}")
    return tuple(Exchange(prompt, call.answer) for prompt, call in zip(prompts, calls, strict=True))


SESSIONS = {
    "a file edited five times, in the prompt": edits,
    "a file edited five times, not in the prompt": rewrites,
    "ten tool calls, a request each": tool_calls,
    "ten tool calls, one conversation": conversation,
}
"""By name."""
