"""The README's three rows: copied from the whole table, which is in docs/benchmarks.md."""

from pathlib import Path

from bench.report.readme_table import BEGIN, END, TableError

ARMS = ("cloud-only", "u-shape", "hat")
"""Text in the cloud, plain split inference, and this project."""


def three_rows(page: str) -> str:
    """The head of the first table of a page, and its rows of `ARMS`.

    Raises:
        TableError: the page has no place for tables, or its first one has not all these arms.
    """
    begin, end = page.find(BEGIN), page.find(END)
    if min(begin, end) < 0:
        raise TableError(f"expected a table between {BEGIN} and {END}")
    setting, _, table = page[begin + len(BEGIN) : end].strip().partition("\n\n")
    head, line, *rows = table.partition("\n\n")[0].splitlines()
    kept = [row for row in rows if row.startswith(tuple(f"| `{arm}` |" for arm in ARMS))]
    if len(kept) != len(ARMS):
        raise TableError(f"expected rows of {', '.join(ARMS)}, found {len(kept)} of them")
    return "\n".join([setting, "", head, line, *kept, ""])


def write_three_rows(page: Path, readme: Path) -> None:
    """Put the rows between the README's markers.

    Raises:
        TableError: there is no such table.
    """
    rows, text = three_rows(page.read_text("utf-8")), readme.read_text("utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n{rows}{END}{after}", "utf-8")
