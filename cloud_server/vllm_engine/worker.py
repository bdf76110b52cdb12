"""One step in a worker process of vLLM. All of vLLM's private surface that we use is here.

vLLM mixes `HatWorkerExtension` into its worker class (`worker_extension_cls`), whichever platform
and model runner it has, and calls its methods by name (`collective_rpc`). Keywords are passed only
if the installed release has them.
"""

import functools
import inspect
import logging
import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_server.vllm_engine.facts import WorkerFacts
from cloud_server.vllm_engine.plan import StepPlan
from cloud_server.vllm_engine.row_exchange import ExchangeShape, RowExchange, open_exchange

_log = logging.getLogger(__name__)


class HatWorkerExtension:
    """Methods of every worker; `self` is vLLM's worker with its loaded model."""

    model_runner: Any
    vllm_config: Any
    _hat_model_s = 0.0
    _hat_exchange: RowExchange | None = None

    def hat_facts(self) -> WorkerFacts:
        """What this worker is; called once, before the first step.

        From here on Ctrl-C in a terminal is for the daemon alone, which drains.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        runner = self.model_runner
        groups = runner.kv_cache_config.kv_cache_groups
        model = self.vllm_config.model_config
        return WorkerFacts(
            runner=type(runner).__module__,
            device=str(runner.device),
            dtype=str(model.dtype).removeprefix("torch."),
            num_blocks=runner.kv_cache_config.num_blocks,
            block_tokens=[group.kv_cache_spec.block_size for group in groups],
            kernel_block_tokens=list(_kernel_block_sizes(runner)),
            cache_kinds=sorted({type(group.kv_cache_spec).__name__ for group in groups}),
            uses_mla=bool(model.use_mla),
            uses_mrope=bool(model.uses_mrope),
            attention=sorted({g.backend.__name__ for groups in runner.attn_groups for g in groups}),
            block_dims=sorted({_block_dim(cache, runner) for cache in self._hat_caches()}),
        )

    def hat_attach(self, path: str, shape: ExchangeShape) -> None:
        """Open the memory that steps' rows will lie in."""
        self._hat_exchange = open_exchange(path, shape)

    def hat_step(self, plan: StepPlan) -> NDArray[Any] | int | None:
        """Run the layers of this stage; the last stage returns the wanted rows `[K, H]`, or puts
        them into the plan's slot and returns K.

        A worker that fails while others share its step ends at once: they may wait for it for
        ever, and its end is what the daemon notices.
        """
        try:
            return self._hat_run(plan)
        except Exception:
            if self.vllm_config.parallel_config.world_size == 1:
                raise
            _log.exception("a step of %d rows failed; this worker ends", plan.row_starts[-1])
            os._exit(1)

    @torch.inference_mode()
    def _hat_run(self, plan: StepPlan) -> NDArray[Any] | int | None:
        vllm = _vllm()
        runner, stages = self.model_runner, vllm.get_pp_group()
        device = runner.device
        if len(plan.copies):
            self._hat_copy_blocks(_on(plan.copies, device))
        positions, slots = _places(plan, runner.kv_cache_config)
        positions_there, slots_there = _on(positions, device), _on(slots, device)[None]
        metadata = _attention_metadata(plan, positions_there, slots_there, runner)
        rows, partial = None, None
        if stages.is_first_rank:
            rows = _as_rows(self._hat_shallow(plan), device)
        else:
            received = stages.recv_tensor_dict(all_gather_group=vllm.get_tp_group())
            partial = vllm.IntermediateTensors(received)
        slots_by_layer = vllm.build_slot_mappings_by_layer(slots_there, runner.kv_cache_config)
        started_s = time.perf_counter()
        with vllm.set_forward_context(
            metadata, self.vllm_config, num_tokens=len(positions), slot_mapping=slots_by_layer
        ):
            out = runner.model(
                input_ids=None,
                positions=positions_there,
                intermediate_tensors=partial,
                inputs_embeds=rows,
            )
        if not stages.is_last_rank:
            stages.send_tensor_dict(out.tensors, all_gather_group=vllm.get_tp_group())
            return None
        wanted = out if len(plan.wanted) == len(out) else out[_on(plan.wanted, device)]
        answer = self._hat_answer(wanted, plan.hidden)
        self._hat_model_s = time.perf_counter() - started_s
        return answer

    def _hat_shallow(self, plan: StepPlan) -> NDArray[Any]:
        if not isinstance(plan.hidden, int):
            return plan.hidden
        assert self._hat_exchange is not None, "attached before the first step"
        return self._hat_exchange.shallow(plan.hidden, int(plan.row_starts[-1]))

    def _hat_answer(self, rows: torch.Tensor, hidden: NDArray[Any] | int) -> NDArray[Any] | int:
        numbers = rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows
        if not isinstance(hidden, int):
            host: NDArray[Any] = numbers.cpu().numpy()
            return host
        assert self._hat_exchange is not None, "attached before the first step"
        torch.from_numpy(self._hat_exchange.deep(hidden, len(rows))).copy_(numbers)
        return len(rows)

    def hat_model_s(self) -> float:
        """Seconds of the last step from the model's call to its rows on the host."""
        return self._hat_model_s

    def _hat_caches(self) -> list[torch.Tensor]:
        """The KV cache of every layer of this stage."""
        layers = self.vllm_config.compilation_config.static_forward_context
        groups = self.model_runner.kv_cache_config.kv_cache_groups
        caches = []
        for name in (name for group in groups for name in group.layer_names):
            cache = layers[name].kv_cache
            # Releases up to 0.28 keep one per virtual engine; there is one.
            caches.append(cache[0] if isinstance(cache, list | tuple) else cache)
        return caches

    def _hat_copy_blocks(self, copies: torch.Tensor) -> None:
        """Copy whole blocks `[C, 2]`; every source is read before anything is written."""
        for cache in self._hat_caches():
            dim = _block_dim(cache, self.model_runner)
            cache.index_copy_(dim, copies[:, 1], cache.index_select(dim, copies[:, 0]))


def _attention_metadata(
    plan: StepPlan, positions: torch.Tensor, slots: torch.Tensor, runner: Any
) -> dict[str, Any]:
    build_attn_metadata = _vllm().build_attn_metadata
    device = runner.device
    sizes = np.diff(plan.row_starts)
    lengths = (plan.positions + sizes).astype(np.int32)
    arguments: dict[str, Any] = {
        "attn_groups": runner.attn_groups,
        "num_reqs": len(sizes),
        "num_tokens": len(positions),
        "query_start_loc_gpu": _on(plan.row_starts, device),
        "query_start_loc_cpu": torch.from_numpy(plan.row_starts),
        "max_query_len": int(sizes.max()),
        "seq_lens": _on(lengths, device),
        "max_seq_len": int(lengths.max()),
        "block_tables": [_on(plan.tables, device)],
        "slot_mappings": slots,
        "kv_cache_config": runner.kv_cache_config,
        "seq_lens_cpu_upper_bound": torch.from_numpy(lengths),
        "positions": positions,
        "is_prefilling": torch.ones(len(sizes), dtype=torch.bool),
    }
    known = _keywords(build_attn_metadata)
    metadata: dict[str, Any] = build_attn_metadata(
        **{name: value for name, value in arguments.items() if name in known}
    )
    return metadata


@functools.cache
def _vllm() -> SimpleNamespace:
    """What is used of vLLM in every step, looked up once: imports cost more than they seem to."""
    from vllm.distributed.parallel_state import get_pp_group, get_tp_group
    from vllm.forward_context import set_forward_context
    from vllm.sequence import IntermediateTensors
    from vllm.v1.worker.gpu.attn_utils import build_attn_metadata, build_slot_mappings_by_layer

    return SimpleNamespace(
        get_pp_group=get_pp_group,
        get_tp_group=get_tp_group,
        set_forward_context=set_forward_context,
        IntermediateTensors=IntermediateTensors,
        build_attn_metadata=build_attn_metadata,
        build_slot_mappings_by_layer=build_slot_mappings_by_layer,
    )


def _places(plan: StepPlan, kv_cache_config: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Each row's position and its slot in the paged cache, int64 `[T]` both."""
    block_tokens = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
    sizes = np.diff(plan.row_starts)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    offsets = np.arange(len(owner), dtype=np.int64) - plan.row_starts[:-1][owner]
    positions = offsets + plan.positions[owner]
    blocks = plan.tables[owner, positions // block_tokens].astype(np.int64)
    return positions, blocks * block_tokens + positions % block_tokens


def _as_rows(hidden: NDArray[Any], device: torch.device) -> torch.Tensor:
    rows = _on(hidden, device)
    return rows.view(torch.bfloat16) if rows.dtype == torch.uint16 else rows


def _on(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    here = torch.from_numpy(array)
    return here if device.type == "cpu" else here.to(device, non_blocking=True)


def _kernel_block_sizes(runner: Any) -> list[int]:
    """Positions per block as the kernels count them; the V1 and V2 runners name it differently."""
    sizes = getattr(runner, "_kernel_block_sizes", None)
    if sizes is None:
        sizes = getattr(runner, "kernel_block_sizes", None)
    return [] if sizes is None else list(sizes)


def _block_dim(cache: torch.Tensor, runner: Any) -> int:
    """Which dimension of a layer's cache counts blocks: the first, or the one behind K and V."""
    num_blocks = runner.kv_cache_config.num_blocks
    for dim in (0, 1):
        if cache.shape[dim] == num_blocks:
            return dim
    return -1


@functools.cache
def _keywords(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
