"""What a device says when the cloud does not let it in."""

from unittest.mock import Mock

import aiohttp
import pytest

from device_runtime.refusals import of_error


def _answer(status: int) -> aiohttp.WSServerHandshakeError:
    return aiohttp.WSServerHandshakeError(Mock(), (), status=status)


def test_a_cloud_that_loads_its_model_is_said_to_be_loading() -> None:
    refusal = of_error(_answer(503), "gpu:7700")
    assert refusal.reason == "the cloud at gpu:7700 is not ready yet, it may be loading its model"
    assert not refusal.is_permanent


@pytest.mark.parametrize("status", [400, 404, 500])
def test_another_answer_raises_the_question_whether_it_is_a_cloud(status: int) -> None:
    refusal = of_error(_answer(status), "gpu:7700")
    assert f"HTTP {status}" in refusal.reason
    assert refusal.is_permanent == (status != 500)
