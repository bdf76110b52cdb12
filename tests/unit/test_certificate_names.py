"""The name in a client certificate."""

from typing import Any

import pytest

from cloud_server.core.names.certificate import name_of_certificate


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        (None, None),
        ({}, None),
        ({"subject": ()}, None),
        ({"subject": ((("organizationName", "lab"),), (("commonName", "car"),))}, "car"),
        ({"subject": ((("commonName", "car"), ("commonName", "bus")),)}, "car"),
        ({"subject": ((("commonName", ""),),), "subjectAltName": (("DNS", "bus"),)}, "bus"),
        ({"subjectAltName": (("URI", "x:y"), ("email", "a@lab"), ("DNS", "bus"))}, "bus"),
        ({"subjectAltName": (("URI", "x:y"), ("email", "a@lab"))}, "a@lab"),
        ({"subjectAltName": (("URI", "x:y"),)}, None),
    ],
)
def test_a_name_is_the_common_name_or_an_alternative_one(
    peer: dict[str, Any] | None, name: str | None
) -> None:
    assert name_of_certificate(peer) == name
