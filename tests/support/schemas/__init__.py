"""Three hundred schemas of the kinds people write, by name; always the same ones.

Ours, after the shapes of public suites (JSON-Schema-Test-Suite, JSONSchemaBench, the tests of vLLM
and xgrammar) and of what clients send: pydantic, zod, tools, extraction, configuration.
"""

from collections.abc import Mapping
from typing import Any

from tests.support.schemas.arrays import ARRAYS
from tests.support.schemas.forms import FORMS
from tests.support.schemas.numbers import NUMBERS
from tests.support.schemas.objects import OBJECTS
from tests.support.schemas.references import REFERENCES
from tests.support.schemas.strings import STRINGS
from tests.support.schemas.unions import UNIONS

KINDS: Mapping[str, Mapping[str, Any]] = {
    "strings": STRINGS,
    "numbers": NUMBERS,
    "arrays": ARRAYS,
    "objects": OBJECTS,
    "references": REFERENCES,
    "unions": UNIONS,
    "forms": FORMS,
}

SCHEMAS: Mapping[str, Any] = {
    f"{kind} {name}": schema for kind, schemas in KINDS.items() for name, schema in schemas.items()
}
"""All of them."""
