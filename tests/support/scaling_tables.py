"""The tables of docs/scaling.md, as `bench.steps.sizing` computes them.

`python -m tests.support.scaling_tables` writes them into the document.
"""

import re
from pathlib import Path

from bench.steps.sizing import known_models
from bench.steps.sizing_tables import all_tables

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
_MARKED = "<!-- computed: {name} -->\n{table}\n<!-- end -->"


def with_fresh_tables(text: str) -> str:
    """The document with each table replaced by one made now."""
    for name, table in all_tables(known_models()).items():
        pattern = _MARKED.format(name=name, table=".*?")
        fresh = _MARKED.format(name=name, table=table)
        text, num_found = re.subn(pattern, lambda _, new=fresh: new, text, flags=re.DOTALL)
        assert num_found == 1, f"no place for the table of {name}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(with_fresh_tables(DOCUMENT.read_text()))
