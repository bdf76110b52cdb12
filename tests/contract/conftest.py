"""The middle engines that contract tests run on; what they share is ended with the run."""

import functools
from collections.abc import Callable, Iterator

import pytest
import torch

from cloud_server.engines.engine import MiddleEngine
from tests.support.middle_engines import ENGINES, family_of
from tests.support.middle_models import FAMILIES, SCALED_ROPES, MiddleModel, make_middle_model
from tests.support.vllm_engines import HEAD_DIM, close_workers, has_vllm
from wire.messages import Dtype


@pytest.fixture(scope="session", autouse=True)
def _no_workers_left() -> Iterator[None]:
    yield
    close_workers()


Models = Callable[[str], MiddleModel]


@pytest.fixture(scope="session")
def made() -> Callable[[str, int], MiddleModel]:
    return functools.cache(lambda family, head_dim: make_middle_model(family, head_dim=head_dim))


@pytest.fixture
def models(engine_name: str, made: Callable[[str, int], MiddleModel]) -> Models:
    def model(family: str) -> MiddleModel:
        if family not in _families_of(engine_name):
            pytest.skip(f"{engine_name} does not run {family}, or runs it elsewhere")
        return made(family, HEAD_DIM if engine_name.startswith("vllm") else 8)

    return model


def _families_of(engine_name: str) -> tuple[str, ...]:
    """The embedded engine reads experts one by one; vLLM's own classes have ropes of their own,
    and every family runs in one worker, some of them in several."""
    if engine_name == "vllm-tp1":
        return tuple(family for family in FAMILIES if family not in SCALED_ROPES)
    if engine_name.startswith("vllm"):
        return ("qwen2-plain", "qwen3-moe", "olmo3", "gpt-oss", "gemma4")
    return tuple(family for family in FAMILIES if family != "qwen3-moe")


_NEEDS = {
    **{
        name: [pytest.mark.skipif(not has_vllm(), reason="needs vLLM: make test-vllm")]
        for name in ENGINES
        if name.startswith("vllm")
    },
    "torch-cuda": [
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ],
}


@pytest.fixture(params=[pytest.param(name, marks=_NEEDS.get(name, [])) for name in ENGINES])
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(engine_name: str, models: Models) -> MiddleEngine:
    return ENGINES[engine_name](models(family_of(engine_name)), Dtype.FP32)
