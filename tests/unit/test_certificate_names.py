"""The name in a client certificate."""

from typing import Any

import pytest

from cloud_server.core.names.certificate import name_of_certificate
from cloud_server.core.names.people import People


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        (None, None),
        ({}, None),
        ({"subject": ()}, ""),
        ({"subject": ((("organizationName", "lab"),), (("commonName", "car"),))}, "car"),
        ({"subject": ((("commonName", "car"), ("commonName", "bus")),)}, "car"),
        ({"subject": ((("commonName", ""),),), "subjectAltName": (("DNS", "bus"),)}, "bus"),
        ({"subjectAltName": (("URI", "x:y"), ("email", "a@lab"), ("DNS", "bus"))}, "bus"),
        ({"subjectAltName": (("URI", "x:y"), ("email", "a@lab"))}, "a@lab"),
        ({"subjectAltName": (("URI", "x:y"),)}, ""),
    ],
)
def test_a_name_is_the_common_name_or_an_alternative_one(
    peer: dict[str, Any] | None, name: str | None
) -> None:
    assert name_of_certificate(peer) == name


@pytest.mark.parametrize(
    ("certificate", "got"),
    [("", "one without a name"), ("shared", "'shared'"), ("a\x1b[31m", r"'a\x1b[31m'")],
)
def test_a_certificate_that_names_nobody_is_told_as_that(certificate: str, got: str) -> None:
    people = People(b"", takes_certificates=True)
    people.admit(None, 0.0, 0.0)
    assert people.who(b"", certificate, 0.0) is None
    expected = "expected a certificate of a name that may come"
    assert people.why_not(b"", certificate, 0.0) == f"{expected}, got {got}"
    assert people.why_not(b"", None, 0.0) == "expected a certificate, got none"
