"""Every family through a real socket, against transformers' own `generate`, as a table.

    python -m tests.support.family_matrix [--vllm] [WORD ...]

Tiny seeded checkpoints of `FAMILY_MODELS` and of the four families of before, each cut with 0 to 2
input and output layers, on both device engines and the torch middle: greedy ids and their log
probabilities. With `--vllm` those of `VLLM_MODELS`, each cut once, with their middle on vLLM. A
WORD names the models whose name begins so. Ends with 1 if any differ.
"""

import asyncio
import json
import random
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from cloud_server.config import CloudConfig
from cloud_server.server import serve_cloud
from device_runtime.config import DeviceConfig
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.runtime.runtime import Runtime
from device_runtime.server import serve_device
from hat.verify.compare import Continuation, Reference, first_difference
from hat.verify.reference import UnsplitModel
from process.world import World
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from tests.support.family_models import FAMILY_MODELS, has_experts
from tests.support.split_models import VARIANTS, random_tokens
from tests.support.vllm_family_models import VLLM_MODELS

ALL_MODELS: Mapping[str, RandomModel] = MappingProxyType({**VARIANTS, **FAMILY_MODELS})
ENGINES = ("onnx", "torch")
CUTS = tuple((m, k) for m in range(3) for k in range(3))
VLLM_CUTS = ((1, 1),)
MAX_LOGPROB_ERROR = 1e-4
_PROMPT_TOKENS = (3, 17, 40)
_NEW_TOKENS = 12
_CONNECT_S = 60.0

_CLOUDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "torch": {"threads": 1},
        "vllm": {
            "capacity_tokens": 2048,
            "max_context_tokens": 256,
            "vllm_args": json.dumps({"enforce_eager": True, "block_size": 32}),
        },
    }
)
"""Settings of each engine for the middle."""


@dataclass(frozen=True, slots=True)
class Case:
    """One split of a model on one device engine and one for the middle."""

    num_input_layers: int
    num_output_layers: int
    engine: str
    cloud: str = "torch"


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a case: texts that differ beyond a tie, and the worst log probability."""

    case: Case
    num_different: int
    worst_logprob_error: float

    @property
    def is_right(self) -> bool:
        """Whether the split model said what the unsplit one says."""
        return not self.num_different and self.worst_logprob_error < MAX_LOGPROB_ERROR


def cases_of(model: RandomModel, cuts: Sequence[tuple[int, int]] = CUTS) -> Iterator[Case]:
    """The splits and engines that a model is tried with: experts on a device run on torch only."""
    for num_input, num_output in cuts:
        for engine in ENGINES:
            if engine == "torch" or not has_experts(model) or num_input == num_output == 0:
                yield Case(num_input, num_output, engine)


def vllm_cases_of(model: RandomModel) -> Iterator[Case]:
    """Once each, since vLLM takes long to start; the device's engines are tried without it."""
    for num_input, num_output in VLLM_CUTS:
        yield Case(num_input, num_output, "torch" if has_experts(model) else "onnx", "vllm")


def check_model(model: RandomModel, folder: Path, cases: Iterable[Case]) -> Iterator[Finding]:
    """The cases of a model, whose checkpoint and bundles are made in `folder`."""
    source = folder / "model"
    make_random_model(model, source)
    prompts = [random_tokens(n, model.vocab_size, seed=n) for n in _PROMPT_TOKENS]
    unsplit = UnsplitModel(source, "float32")
    references = [unsplit.greedy(prompt, _NEW_TOKENS) for prompt in prompts]
    for case in cases:
        out = folder / f"{case.num_input_layers}-{case.num_output_layers}-{case.engine}"
        split_checkpoint(
            SplitOptions(
                str(source),
                out,
                case.num_input_layers,
                case.num_output_layers,
                onnx_weights=("float32",) if case.engine == "onnx" else (),
            )
        )
        came = asyncio.run(_answers(out, case, prompts, unsplit.stop_ids))
        yield _finding(case, references, came)


def _finding(case: Case, references: Sequence[Reference], came: Sequence[Continuation]) -> Finding:
    num_different, worst = 0, 0.0
    for reference, text in zip(references, came, strict=True):
        difference = first_difference(reference, text.ids)
        num_different += difference is not None and not difference.is_tie
        end = len(reference.ids) if difference is None else difference.index
        pairs = zip(reference.logprobs[:end], text.logprobs[:end], strict=True)
        worst = max([worst, *(abs(one - other) for one, other in pairs)])
    return Finding(case, num_different, worst)


async def _answers(
    bundles: Path, case: Case, prompts: Sequence[Sequence[int]], stop_ids: frozenset[int]
) -> list[Continuation]:
    greedy = SamplingParams(temperature=0.0)
    answers = []
    async with _both_sides(bundles, case) as runtime:
        for prompt in prompts:
            request = GenerationRequest(prompt, _NEW_TOKENS, greedy, stop_ids, num_logprobs=0)
            ids: list[int] = []
            logprobs: list[float] = []
            async with aclosing(runtime.generate(request, "matrix")) as emissions:
                async for emission in emissions:
                    ids.extend(token.id for token in emission.tokens)
                    logprobs.extend(token.logprob or 0.0 for token in emission.tokens)
            answers.append(Continuation(tuple(ids), tuple(logprobs)))
    return answers


@asynccontextmanager
async def _both_sides(bundles: Path, case: Case) -> AsyncIterator[Runtime]:
    secret = secrets.token_urlsafe(32)
    world = World(time.monotonic, time.time, random.SystemRandom())
    cloud_engine, engine = cast("Any", case.cloud), cast("Any", case.engine)
    settings: Mapping[str, Any] = _CLOUDS[case.cloud]
    # Rows too: those of a bundle in bfloat16 would be rounded on the way.
    exact: Mapping[str, Any] = {"dtype": "float32", "wire_dtype": "float32"}
    cloud_config = CloudConfig(
        bundles, port=0, engine=cloud_engine, secret=secret, **exact, **settings
    )
    async with serve_cloud(cloud_config, world.clock) as cloud:
        config = DeviceConfig(
            bundles, port=0, cloud=cloud.url, engine=engine, secret=secret, threads=1
        )
        async with serve_device(config, world) as device:
            async with asyncio.timeout(_CONNECT_S):
                await device.link.connected()
            yield device.runtime


def main(words: Sequence[str]) -> int:
    """Print a line for each model; 1 if a case differs."""
    is_right = True
    on_vllm = "--vllm" in words
    words = [word for word in words if word != "--vllm"]
    print("| model | family | cases | right | worst log probability |\n|---|---|---|---|---|")
    for name, model in (VLLM_MODELS if on_vllm else ALL_MODELS).items():
        if words and not name.startswith(tuple(words)):
            continue
        cases = vllm_cases_of(model) if on_vllm else cases_of(model)
        with tempfile.TemporaryDirectory() as folder:
            findings = list(check_model(model, Path(folder), cases))
        num_right = sum(finding.is_right for finding in findings)
        worst = max(finding.worst_logprob_error for finding in findings)
        print(
            f"| {name} | {model.family} | {len(findings)} | {num_right} | {worst:.1e} |", flush=True
        )
        for finding in findings:
            if not finding.is_right:
                is_right = False
                print(f"DIFFERS: {finding}", flush=True)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
