"""A live run: setting by setting, pass by pass, arm by arm."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from bench.arms import Arm
from bench.link.measure import link_record, measure_link
from bench.link.opening import open_links
from bench.link.shaped_link import RelayFigures, ShapedLink
from bench.live.asking import Load
from bench.live.cell import CellResult, run_cell, run_in_turns
from bench.live.fleet import Fleet, shared_cores
from bench.live.plan import (
    LivePlan,
    Setting,
    drafter_note,
    in_turn,
    load_for,
    loads_of,
    model_record,
)
from bench.records import Cell, LinkRecord

_LINK_PHASE_S = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """Told what happens: what is being done now, and each answer as it comes."""

    doing: Callable[[str], None]
    answered: Callable[[], None]


async def run_live(plan: LivePlan, progress: Progress) -> list[Cell]:
    """All cells of a plan, in the order in which they were measured.

    Raises:
        LiveError: a program did not start, ended, or failed.
        LinkError: a link could not be opened or measured.
        BundleError, WorkloadError: the plan cannot be carried out.
    """
    cells: list[Cell] = []
    for setting in plan.settings:
        loads = loads_of(setting, plan.seed)
        progress.doing(f"{setting.name}: measuring the link")
        num_devices = setting.workload.num_devices
        with open_links(setting.link, num_devices, plan.seed, kind=setting.link_kind) as links:
            measured = await asyncio.to_thread(measure_link, links[0], _LINK_PHASE_S)
            link = link_record(links[0], measured)
            cells += await _passes(setting, loads, links, link, plan.repeats, progress)
    return cells


async def _passes(
    setting: Setting,
    loads: Sequence[Load],
    links: tuple[ShapedLink, ...],
    link: LinkRecord,
    repeats: int,
    progress: Progress,
) -> list[Cell]:
    """All cells of a setting, over open links."""
    model, cores = model_record(setting.bundles, setting.dtype), shared_cores()
    fleet = Fleet(setting.bundles, links, cores, model.dtype, setting.device_bundles)
    cells = []
    try:
        for repeat in range(repeats):
            async for arm, result in _pass(setting, fleet, loads, repeat, progress):
                relay = _relay_notes(links[0].figures())
                drafter = drafter_note(setting.bundles, arm)
                engine = f"middle layers: {result.engine}"
                notes = [*arm.notes, *drafter, engine, cores.note, *relay]
                cells.append(
                    Cell(
                        arm=arm.name,
                        setting=setting.name,
                        repeat=repeat,
                        model=model,
                        link=link,
                        workload=setting.workload,
                        requests=result.requests,
                        cloud_step_s=[step.seconds for step in result.steps],
                        cloud_step_tokens=[step.num_tokens for step in result.steps],
                        notes=notes,
                    )
                )
    finally:
        await fleet.close()
    return cells


async def _pass(
    setting: Setting, fleet: Fleet, loads: Sequence[Load], repeat: int, progress: Progress
) -> AsyncGenerator[tuple[Arm, CellResult]]:
    """Every arm once."""
    arms = in_turn(setting.arms, repeat)
    if setting.takes_turns:
        [load] = loads
        progress.doing(f"{setting.name}: {', '.join(arm.name for arm in arms)} in turns")
        own = [(arm, load_for(arm, load)) for arm in arms]
        for found in zip(arms, await run_in_turns(fleet, own, progress.answered), strict=True):
            yield found
        return
    for arm in arms:
        progress.doing(f"{setting.name}: {arm.name}")
        yield arm, await run_cell(fleet, arm, loads, progress.answered)


def _relay_notes(relay: RelayFigures | None) -> list[str]:
    if relay is None:
        return []
    return [
        f"the link's relay sent its packets {1e3 * relay.mean_late_s:.2f} ms late on average so "
        f"far, {1e3 * relay.worst_late_s:.1f} ms at worst"
    ]
