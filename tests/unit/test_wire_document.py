"""docs/wire-protocol.md against the code: layouts, numbers, and what no message can hold."""

import dataclasses
import enum
import re
import types
import typing
from pathlib import Path
from struct import Struct

import pytest

from wire import codec, messages
from wire.codec import MessageType
from wire.errors import FaultCode
from wire.messages import Fault, Message

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire-protocol.md").read_text()
MESSAGE_CLASSES = typing.get_args(Message)
TAILS = {"credential", "taps", "tables", "part", "payload", "message", "end"}
EXTENSIONS = {"tables"}
"""What others follow."""
SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "f64": 8, "16 bytes": 16, "32 bytes": 32}


def layouts() -> list[tuple[str, list[str]]]:
    """Each message's fields as the document lists them: `45 hidden_size u32`."""
    rows = re.findall(r"^\| (\w+) \| (0 type u8 .*) \|$", DOCUMENT, re.MULTILINE)
    return [(name, layout.split(" · ")) for name, layout in rows]


@pytest.mark.parametrize(("name", "fields"), layouts(), ids=lambda value: str(value)[:8])
def test_the_documents_layout_is_the_codecs(name: str, fields: list[str]) -> None:  # W1
    header: Struct = getattr(codec, name.upper())
    offset, names = 0, []
    for field in fields:
        begin, field_name, *size = field.replace(",", "").split(" ", 2)
        assert int(begin) == offset, f"{name}.{field_name}"
        names.append(field_name)
        if field_name in EXTENSIONS:
            names += size
            break
        if field_name in TAILS and (not size or size == ["UTF-8"]):
            break
        offset += SIZES[size[0]]
    assert header.size == offset
    expected = {field.name for field in dataclasses.fields(getattr(messages, name))}
    assert set(names) - {"type", "reserved", "end"} == expected


def test_the_document_lists_every_message_with_its_type() -> None:  # W2
    table = re.findall(r"^\| (\d+) \| (\w+) \| (device|cloud) \|", DOCUMENT, re.MULTILINE)
    assert {(int(number), name.upper()) for number, name, _ in table} == {
        (kind.value, kind.name) for kind in MessageType
    }
    assert {name for name, _ in layouts()} == {cls.__name__ for cls in MESSAGE_CLASSES}


def test_the_document_lists_every_fault_code() -> None:  # W31
    table = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", DOCUMENT, re.MULTILINE)
    assert {(int(number), name) for number, name in table} == {
        (code.value, code.name) for code in FaultCode
    }


def test_the_document_lists_every_codec_and_the_reserved_one() -> None:  # W36, W38, W40
    (line,) = re.findall(r"codec (0 .*?);", DOCUMENT)
    assert (
        line
        == "0 RAW, 1 reserved (W36), 2 TAPPED (W38), 3 EXACT, 6 PADDED (W40), 4 INT8, 5 INT6 (W42)"
    )
    assert {kind.name: kind.value for kind in messages.Codec} == {
        "RAW": 0,
        "TAPPED": 2,
        "EXACT": 3,
        "INT8": 4,
        "INT6": 5,
        "PADDED": 6,
    }


def test_the_rules_are_numbered_without_a_gap() -> None:
    rules = [int(number) for number in re.findall(r"^\*\*W(\d+)\*\*", DOCUMENT, re.MULTILINE)]
    assert rules == list(range(1, len(rules) + 1))


def test_every_rule_that_code_or_tests_cite_exists() -> None:
    rules = set(re.findall(r"\*\*W(\d+)\*\*", DOCUMENT))
    root = Path(__file__).parents[2]
    for room in ("wire", "cloud_server", "device_runtime", "tests"):
        for source in (root / room).rglob("*.py"):
            cited = set(re.findall(r"\bW([1-9]\d?)\b", source.read_text()))
            assert cited <= rules, f"{source}: {sorted(cited - rules)}"


def test_no_message_has_a_field_for_token_ids_or_text() -> None:  # W35
    scalar_types = {int, float, bytes}
    for cls in MESSAGE_CLASSES:
        for name, hint in typing.get_type_hints(cls).items():
            if (cls, name) == (Fault, "message"):
                continue
            is_union = typing.get_origin(hint) in {types.UnionType, typing.Union}
            for part in typing.get_args(hint) if is_union else (hint,):
                kind = getattr(part, "__supertype__", part)  # a NewType's own type
                is_enum_or_view = kind is memoryview or kind is bytearray or _is_enum(kind)
                assert kind in scalar_types or is_enum_or_view, f"{cls.__name__}.{name}: {hint}"
                assert "token_id" not in name


def test_the_only_payloads_are_hidden_states() -> None:  # W35
    holders = {
        (cls.__name__, field.name)
        for cls in MESSAGE_CLASSES
        for field in dataclasses.fields(cls)
        if field.type is messages.Payload
    }
    assert holders == {("States", "payload"), ("Reply", "payload"), ("Piece", "part")}


def _is_enum(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.IntEnum)
