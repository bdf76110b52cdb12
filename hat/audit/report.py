"""A receipt as tables to read: in a terminal, and in the documents."""

from collections.abc import Iterator, Sequence

from hat.audit.downwards import LENS, OWN_LAYERS, UNDER_ALL
from hat.audit.receipt import PUBLIC, Cell, Direction, Figure, Receipt
from hat.audit.upwards import NEAREST, OPTIMISED, PAIRS, SEARCH

Row = tuple[str, ...]

_NONE = ""


def rendered(receipt: Receipt) -> str:
    """Tables of every setting, and what the controls say."""
    plan = receipt.plan
    lines = [
        f"{plan.model}: {receipt.num_documents} documents of {plan.text.name}, "
        f"{receipt.num_tokens:,} tokens with answers, seed {plan.seed}. Share of tokens recovered, "
        "and documents read",
    ]
    for title, rows in _tables(receipt):
        lines += ["", title, *_aligned(rows)]
    return "\n".join([*lines, "", *controls_said(receipt)])


def controls_said(receipt: Receipt) -> list[str]:
    """A line for each kind of control."""
    found = ", ".join(
        f"{each.attack} {_percent(each.found)} of {_percent(each.planted)}"
        for each in receipt.controls
    )
    figures = [figure for cell in receipt.cells for figure in cell.figures]
    most = max((figure.shuffled for figure in figures), default=0.0)
    prior = max((figure.prior for figure in figures), default=0.0)
    lines = [
        f"planted leaks: {_passed(receipt.planted_found)}; {found}",
        f"shuffled labels: {_passed(receipt.shuffled_not_found)}; {len(figures)} figures, at most "
        f"{_percent(most)} right, where always the commonest token gives up to {_percent(prior)}",
    ]
    if receipt.rotation_found is not None:
        is_found = "found" if receipt.rotation_found else "not found"
        lines.append(f"rotation: {is_found} by one least-squares solve of the served weights")
    return lines


def table(receipt: Receipt, direction: Direction, codec: str, distance: float) -> list[Row]:
    """A head, and a row for each attack; a column for each number of layers."""
    plan = receipt.plan
    numbers = plan.input_layers if direction == "up" else plan.output_layers
    end = "input" if direction == "up" else "output"
    cells = {
        cell.num_layers: cell
        for cell in receipt.cells
        if (cell.direction, cell.codec, cell.distance) == (direction, codec, distance)
    }
    head = ("what the cloud does", *(_layers(number, end) for number in numbers))
    columns = [cells.get(number) for number in numbers]
    rows = [
        (_attack_named(attack, num_pairs), *(_said(cell, attack, num_pairs) for cell in columns))
        for attack, num_pairs in _attacks(cells.values())
    ]
    changes = [None if cell is None else cell.perplexity_change for cell in columns]
    if any(change is not None for change in changes):
        shown = (_NONE if change is None else f"{100 * change:+.0f} %" for change in changes)
        rows.append(("(perplexity with these ends)", *shown))
    return [head, *rows]


def settings(receipt: Receipt, direction: Direction) -> list[tuple[str, float]]:
    """Codecs and distances that were measured in a direction, in order."""
    cells = [cell for cell in receipt.cells if cell.direction == direction]
    return list(dict.fromkeys((cell.codec, cell.distance) for cell in cells))


def setting_named(codec: str, distance: float) -> str:
    """In words."""
    return codec if distance == PUBLIC else f"{codec}, device's ends {distance:g} away"


def _tables(receipt: Receipt) -> Iterator[tuple[str, list[Row]]]:
    for direction, what in (("up", "rows that go up"), ("down", "rows that come back")):
        for codec, distance in settings(receipt, direction):  # type: ignore[arg-type]
            rows = table(receipt, direction, codec, distance)  # type: ignore[arg-type]
            yield f"{what}, {setting_named(codec, distance)}", rows


def _attacks(cells: object) -> list[tuple[str, int | None]]:
    """In the order in which they first come."""
    found: dict[tuple[str, int | None], None] = {}
    for cell in cells:  # type: ignore[attr-defined]
        found |= {(figure.attack, figure.num_pairs): None for figure in cell.figures}
    return list(found)


def _attack_named(attack: str, num_pairs: int | None) -> str:
    words = {
        NEAREST: "looks up the nearest embedding",
        PAIRS: f"a linear map learnt from {num_pairs:,} known pairs" if num_pairs else PAIRS,
        SEARCH: "tries the vocabulary, position by position",
        OPTIMISED: "optimises soft embeddings until the rows fit",
        f"{LENS}, greedy": "applies the LM head: greedy answers",
        f"{LENS}, sampled": "applies the LM head: answers at temperature 1",
        f"{OWN_LAYERS}, greedy": "has the output layers too: greedy answers",
        f"{OWN_LAYERS}, sampled": "has the output layers too: answers at temperature 1",
        f"{SEARCH}, {UNDER_ALL}": "from these rows alone, tries the vocabulary",
        f"{OPTIMISED}, {UNDER_ALL}": "from these rows alone, optimises soft embeddings",
    }
    return words.get(attack, attack)


def _said(cell: Cell | None, attack: str, num_pairs: int | None) -> str:
    figure = None if cell is None else cell.figure(attack, num_pairs)
    return _NONE if figure is None else _share(figure)


def _share(figure: Figure) -> str:
    documents = f" ({figure.documents_read}/{figure.num_documents})" if figure.num_documents else ""
    return f"{_percent(figure.share)}{documents}"


def _percent(share: float) -> str:
    """`100 %` is all; one that was missed shows."""
    text = f"{100 * share:.0f}" if share in (0, 1) else f"{100 * share:.1f}"
    return f"{'99.9' if text == '100.0' else text} %"


def _layers(number: int, end: str) -> str:
    return f"{number} {end} layer{'' if number == 1 else 's'}"


def _passed(is_passed: bool) -> str:
    return "passed" if is_passed else "FAILED"


def _aligned(rows: Sequence[Row]) -> list[str]:
    """Names to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
