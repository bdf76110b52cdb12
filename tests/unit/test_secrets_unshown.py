"""A secret does not show where a value that holds it is shown, as in a report of an error."""

from dataclasses import replace
from pathlib import Path

import pytest

from cloud_server.config import CloudConfig
from device_runtime.api.service import AccessRules
from device_runtime.config import DeviceConfig
from hat.chat.client import Endpoint
from hat.status.asking import Side
from tests.support.cloud_core import CONFIG, HELLO
from wire.messages import Join

HIDDEN = "hunter2"


@pytest.mark.parametrize(
    "holder",
    [
        CloudConfig(Path("bundle"), secret=HIDDEN),
        DeviceConfig(Path("bundle"), secret=HIDDEN, api_key=HIDDEN),
        replace(CONFIG, credential=HIDDEN.encode()),
        replace(HELLO, credential=HIDDEN.encode()),
        Join(1, bytes(16), HIDDEN.encode()),
        AccessRules(api_key=HIDDEN),
        Endpoint("http://127.0.0.1:8000/v1", HIDDEN),
        Side("device", "http://127.0.0.1:8000", True, HIDDEN),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_a_secret_does_not_show(holder: object) -> None:
    assert HIDDEN not in repr(holder)
