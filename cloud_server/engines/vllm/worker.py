"""One step in a worker process of vLLM. All of vLLM's private surface that we use is here.

vLLM mixes `HatWorkerExtension` into its worker class (`worker_extension_cls`), whichever platform
and model runner it has, and calls its methods by name (`collective_rpc`). Keywords are passed only
if the installed release has them.
"""

import contextlib
import functools
import inspect
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from numpy.typing import NDArray

from cloud_server.engines.vllm.exchange.notices import FAILED
from cloud_server.engines.vllm.exchange.shared_rows import RowPaths, WorkerRows
from cloud_server.engines.vllm.facts import WorkerFacts
from cloud_server.engines.vllm.models import Taps, run_tapped
from cloud_server.engines.vllm.plan import StepPlan

_log = logging.getLogger(__name__)

_NOBODY = -1


class HatWorkerExtension:
    """Methods of every worker; `self` is vLLM's worker with its loaded model."""

    model_runner: Any
    vllm_config: Any
    rank: int
    _hat_started_s = 0.0
    _hat_model_s = 0.0
    _hat_rows: WorkerRows | None = None
    _hat_copies: dict[int, list[torch.Tensor]] | None = None

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
            cache_kinds=sorted({kind for group in groups for kind in _cache_kinds(group)}),
            uses_mla=bool(model.use_mla),
            uses_mrope=bool(model.uses_mrope),
            attention=sorted({g.backend.__name__ for groups in runner.attn_groups for g in groups}),
            block_dims=sorted({_block_dim(cache, runner) for cache in self._hat_caches()}),
        )

    def hat_attach(self, paths: RowPaths) -> None:
        """Open the memory that steps' rows will lie in."""
        self._hat_rows = WorkerRows.opened(paths, self.rank)

    def hat_step(self, rows: NDArray[Any], *plan: Any) -> NDArray[Any] | None:
        """Run the layers of this stage; workers of the last one return the wanted rows `[K, H]`,
        taps among them."""
        with self._hat_all_or_none():
            deep = self._hat_run(StepPlan(*plan), lambda: rows)
            if deep is None:
                return None
            answer: NDArray[Any] = deep.cpu().numpy()
            self._hat_model_s = time.perf_counter() - self._hat_started_s
            return answer

    def hat_step_in_slot(self, slot: int, step: int, *plan: Any) -> None:
        """The same with rows in shared memory. One worker puts the wanted ones there and gives
        notice of them, or of a step that failed."""
        shared = self._hat_rows
        assert shared is not None, "attached before the first step"
        try:
            with self._hat_all_or_none():
                deep = self._hat_run(StepPlan(*plan), lambda: self._hat_taken(slot, step))
                if deep is None or shared.deep_notices is None:
                    return
                num_wanted = len(deep)
                torch.from_numpy(shared.exchange.deep(slot, num_wanted)).copy_(deep)
                self._hat_model_s = time.perf_counter() - self._hat_started_s
        except Exception:
            _log.exception("a step failed")
            num_wanted = FAILED
        assert shared.deep_notices is not None, "a lone worker answers"
        shared.deep_notices.tell(step, num_wanted)

    def _hat_taken(self, slot: int, step: int) -> NDArray[Any]:
        assert self._hat_rows is not None, "attached before the first step"
        rows = self._hat_rows.take(slot, step)
        # On a CPU a layer may add to its rows in place, and others read the same ones.
        is_read_by_others = self.vllm_config.parallel_config.tensor_parallel_size > 1
        return rows.copy() if is_read_by_others else rows

    @contextlib.contextmanager
    def _hat_all_or_none(self) -> Iterator[None]:
        """A worker that fails while others share its step ends at once: they may wait for it for
        ever, and its end is what the daemon notices."""
        try:
            yield
        except Exception:
            if self.vllm_config.parallel_config.world_size == 1:
                raise
            _log.exception("a step failed; this worker ends")
            os._exit(1)

    @torch.inference_mode()
    def _hat_run(
        self, plan: StepPlan, take_rows: Callable[[], NDArray[Any]]
    ) -> torch.Tensor | None:
        vllm = _vllm()
        runner, stages = self.model_runner, vllm.get_pp_group()
        device = runner.device
        if len(plan.copies):
            self._hat_copy_blocks(_on(plan.copies, device))
        positions, places = _on(plan.positions, device), _on(plan.places, device)[None]
        metadata = _attention_metadata(plan, positions, places, runner)
        slots_by_layer = vllm.build_slot_mappings_by_layer(places, runner.kv_cache_config)
        rows, partial = None, dict[str, torch.Tensor]()
        if stages.is_first_rank:
            rows = _as_rows(take_rows(), device)
        else:
            partial = stages.recv_tensor_dict(all_gather_group=vllm.get_tp_group())
        taps = Taps(plan.tap_depths.tolist(), _on(plan.tap_rows, device))
        tapped = {depth: partial.pop(key) for depth, key in _keys(taps) if key in partial}
        self._hat_started_s = time.perf_counter()
        with vllm.set_forward_context(
            metadata, self.vllm_config, num_tokens=len(positions), slot_mapping=slots_by_layer
        ):
            out, own = self._hat_layers(rows, partial, positions, taps)
        tapped |= own
        if not isinstance(out, torch.Tensor):
            sent = {key: tapped[depth] for depth, key in _keys(taps) if depth in tapped}
            stages.send_tensor_dict({**out, **sent}, all_gather_group=vllm.get_tp_group())
            return None
        wanted = torch.cat([out, *(tapped[depth] for depth in taps.depths)]) if tapped else out
        if tapped or len(plan.wanted) < len(out):
            wanted = wanted[_on(plan.wanted, device)]
        return wanted.view(torch.uint16) if wanted.dtype == torch.bfloat16 else wanted

    def _hat_layers(
        self,
        rows: torch.Tensor | None,
        partial: dict[str, torch.Tensor],
        positions: torch.Tensor,
        taps: Taps,
    ) -> tuple[Mapping[str, torch.Tensor] | torch.Tensor, dict[int, torch.Tensor]]:
        """The last stage's deep rows, or what goes to the next one; and this stage's taps."""
        runner = self.model_runner
        if taps.depths:
            return run_tapped(runner.get_model(), rows, partial, positions, taps)
        out = runner.model(
            input_ids=None,
            positions=positions,
            intermediate_tensors=_vllm().IntermediateTensors(partial) if partial else None,
            inputs_embeds=rows,
        )
        return (out if isinstance(out, torch.Tensor) else out.tensors), {}

    def hat_model_s(self) -> float:
        """Seconds of the last step from the model's call to its rows on the host."""
        return self._hat_model_s

    def hat_save(self, copy: int, blocks: NDArray[Any]) -> None:
        """Keep this worker's part of KV blocks in host memory, under a number."""
        with self._hat_all_or_none(), torch.inference_mode():
            places = _on(blocks, self.model_runner.device)
            self._hat_kept()[copy] = [
                cache.index_select(_block_dim(cache, self.model_runner), places).cpu()
                for cache in self._hat_caches()
            ]

    def hat_restore(self, copy: int, first: int, blocks: NDArray[Any]) -> None:
        """Write what was kept into these blocks, from its own block `first` on."""
        with self._hat_all_or_none(), torch.inference_mode():
            places = _on(blocks, self.model_runner.device)
            for cache, kept in zip(self._hat_caches(), self._hat_kept()[copy], strict=True):
                dim = _block_dim(cache, self.model_runner)
                part = kept.narrow(dim, first, len(blocks)).to(cache.device)
                cache.index_copy_(dim, places, part)

    def hat_drop(self, copy: int) -> None:
        """Forget what was kept under a number."""
        self._hat_kept().pop(copy, None)

    def _hat_kept(self) -> dict[int, list[torch.Tensor]]:
        """What was kept, layer by layer."""
        if self._hat_copies is None:
            self._hat_copies = {}
        return self._hat_copies

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


def send_unanswered(executor: Any, method: str, arguments: tuple[Any, ...]) -> None:
    """The daemon's side: have every worker run a method, in the order of all calls.

    The executor's own calls each leave an answer to collect, in order, which takes longer than
    sending did; here the rank that replies is nobody's.
    """
    executor.rpc_broadcast_mq.enqueue((method, arguments, {}, _NOBODY))


def _attention_metadata(
    plan: StepPlan, positions: torch.Tensor, places: torch.Tensor, runner: Any
) -> dict[str, Any]:
    build_attn_metadata = _vllm().build_attn_metadata
    device = runner.device
    arguments: dict[str, Any] = {
        "attn_groups": runner.attn_groups,
        "num_reqs": len(plan.lengths),
        "num_tokens": len(positions),
        "query_start_loc_gpu": _on(plan.row_starts, device),
        "query_start_loc_cpu": torch.from_numpy(plan.row_starts),
        "max_query_len": plan.most_rows,
        "seq_lens": _on(plan.lengths, device),
        "max_seq_len": plan.most_tokens,
        "block_tables": [_on(plan.tables, device)],
        "slot_mappings": places,
        "kv_cache_config": runner.kv_cache_config,
        "seq_lens_cpu_upper_bound": torch.from_numpy(plan.lengths),
        "positions": positions,
        "is_prefilling": torch.ones(len(plan.lengths), dtype=torch.bool),
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


def _keys(taps: Taps) -> list[tuple[int, str]]:
    """Each depth, and what its rows are called on their way to the last stage."""
    return [(depth, f"hat_tap_{depth}") for depth in taps.depths]


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


def _cache_kinds(group: Any) -> set[str]:
    """What vLLM calls the caches of a group's layers: one kind for all of them, or one each."""
    spec = group.kv_cache_spec
    each = getattr(spec, "kv_cache_specs", None)
    return {type(one).__name__ for one in ([spec] if each is None else each.values())}


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
