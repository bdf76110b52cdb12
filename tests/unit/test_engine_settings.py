"""Each engine refuses by name what only the other one knows."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from cloud_server.config import VLLM_ONLY, CloudConfig, check_torch_settings, check_vllm_settings
from process.errors import StartError

CONFIG = CloudConfig(Path("bundles"))

CHANGED = {
    "tensor_parallel_size": 2,
    "pipeline_parallel_size": 2,
    "nnodes": 2,
    "node_rank": 1,
    "master_addr": "10.0.0.1",
    "master_port": 1,
    "distributed_executor_backend": "ray",
    "gpu_memory_utilization": 0.5,
    "kv_cache_memory": 1000,
    "quantization": "fp8",
    "vllm_args": "{}",
}


def test_every_setting_from_the_first_of_vllm_to_the_logs_is_vllm_s():
    names = [field.name for field in fields(CloudConfig)]
    first, end = names.index("tensor_parallel_size"), names.index("log_level")
    assert tuple(names[first:end]) == VLLM_ONLY
    assert set(CHANGED) == set(VLLM_ONLY)


def test_torch_takes_what_every_engine_has():
    check_torch_settings(replace(CONFIG, device="cpu", threads=3, dtype="float16"))


@pytest.mark.parametrize("name", VLLM_ONLY)
def test_torch_refuses_each_setting_of_vllm_by_name(name):
    with pytest.raises(StartError, match=f"^{name} .*: only engine vllm has this setting"):
        check_torch_settings(replace(CONFIG, **{name: CHANGED[name]}))


def test_vllm_takes_its_own():
    check_vllm_settings(replace(CONFIG, engine="vllm"))
    check_vllm_settings(
        replace(
            CONFIG, tensor_parallel_size=2, pipeline_parallel_size=2, nnodes=4, quantization="fp8"
        )
    )


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"device": "cpu"}, "^device cpu: "),
        ({"threads": 2}, "^threads: .*VLLM_CPU_OMP_THREADS_BIND"),
        ({"node_rank": 1}, "^node_rank 1: expected less than nnodes, 1"),
        ({"nnodes": 2, "node_rank": 2, "tensor_parallel_size": 2}, "^node_rank 2: .*nnodes, 2"),
        ({"nnodes": 2}, "^nnodes 2: expected a divisor of the 1 workers"),
        ({"nnodes": 3, "tensor_parallel_size": 4}, "^nnodes 3: expected a divisor of the 4 work"),
    ],
)
def test_vllm_refuses_what_it_does_not_know_and_nodes_that_do_not_add_up(settings, complaint):
    with pytest.raises(StartError, match=complaint):
        check_vllm_settings(replace(CONFIG, engine="vllm", **settings))
