"""The tables of `hat audit` in the documents, made of the receipt that lies beside them.

`python -m tests.support.audit_tables` writes them.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from hat.audit.receipt import PUBLIC, Direction, Receipt, read_receipt
from hat.audit.report import controls_said, setting_named, settings, table

ROOT = Path(__file__).resolve().parents[2]
RECEIPT = ROOT / "docs" / "audits" / "smollm2-135m-instruct.json"
README = ROOT / "README.md"
PRIVACY = ROOT / "docs" / "privacy.md"

_MARKED = "<!-- {name}:begin -->\n{part}\n<!-- {name}:end -->"
_DIRECTIONS: tuple[tuple[Direction, str], ...] = (
    ("up", "Rows that go up"),
    ("down", "Rows that come back"),
)


def shipped() -> Receipt:
    """The receipt of the documents' tables."""
    receipt = read_receipt(RECEIPT)
    assert receipt is not None
    return receipt


def summary(receipt: Receipt) -> str:
    """The README's tables: exact rows, and an attacker with the public weights."""
    return "\n\n".join(
        _markdown(table(receipt, direction, "exact", PUBLIC)) for direction, _ in _DIRECTIONS
    )


def everything(receipt: Receipt) -> str:
    """Every setting, and the controls."""
    parts = [
        f"**{what}, {setting_named(codec, distance)}:**\n\n"
        + _markdown(table(receipt, direction, codec, distance))
        for direction, what in _DIRECTIONS
        for codec, distance in settings(receipt, direction)
    ]
    controls = "\n".join(f"- {line}" for line in controls_said(receipt))
    return "\n\n".join([*parts, f"Controls:\n\n{controls}", f"`{receipt.command}`"])


def with_fresh_part(text: str, name: str, part: str) -> str:
    """A document with the part of that name as it is now."""
    pattern, fresh = (_MARKED.format(name=name, part=each) for each in (".*?", part))
    text, num_found = re.subn(pattern, lambda _: fresh, text, flags=re.DOTALL)
    assert num_found == 1, f"no place for {name}"
    return text


def fresh_documents() -> dict[Path, str]:
    """Both documents as they should be."""
    receipt = shipped()
    return {
        README: with_fresh_part(README.read_text(), "audit", summary(receipt)),
        PRIVACY: with_fresh_part(PRIVACY.read_text(), "audit", everything(receipt)),
    }


def _markdown(rows: Sequence[tuple[str, ...]]) -> str:
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *others])


if __name__ == "__main__":
    for path, fresh in fresh_documents().items():
        path.write_text(fresh)
