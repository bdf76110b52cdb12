"""A live run: setting by setting, pass by pass, arm by arm."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from bench.arms import Arm
from bench.link.measure import link_record, measure_link
from bench.link.opening import open_links
from bench.link.shaped_link import RelayFigures, ShapedLink
from bench.live.cell import CellResult, Load, run_cell
from bench.live.fleet import Cores, Fleet, shared_cores
from bench.live.plan import LivePlan, Setting, arms_in_turn, load_of, model_record
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
        load = load_of(setting, plan.seed)
        progress.doing(f"{setting.name}: measuring the link")
        opened = open_links(
            setting.link, setting.workload.num_devices, plan.seed, kind=setting.link_kind
        )
        with opened as links:
            measured = await asyncio.to_thread(measure_link, links[0], _LINK_PHASE_S)
            run = _SettingRun(setting, load, link_record(links[0], measured), shared_cores())
            cells += await run.passes(links, plan.repeats, progress)
    return cells


class _SettingRun:
    """All passes over one open link."""

    def __init__(self, setting: Setting, load: Load, link: LinkRecord, cores: Cores) -> None:
        self._setting = setting
        self._load = load
        self._link = link
        self._cores = cores
        self._model = model_record(setting.bundles, setting.dtype)

    async def passes(
        self, links: tuple[ShapedLink, ...], repeats: int, progress: Progress
    ) -> list[Cell]:
        """The cells of this setting."""
        cells = []
        async with contextlib.AsyncExitStack() as stack:
            fleet = Fleet(self._setting.bundles, links, self._cores, self._model.dtype)
            stack.push_async_callback(fleet.close)
            for repeat in range(repeats):
                for arm in arms_in_turn(self._setting.arms, repeat):
                    progress.doing(f"{self._setting.name}: {arm.name}")
                    result = await run_cell(fleet, arm, self._load, progress.answered)
                    cells.append(self._cell(arm, repeat, result, links[0].figures()))
        return cells

    def _cell(self, arm: Arm, repeat: int, result: CellResult, relay: RelayFigures | None) -> Cell:
        return Cell(
            arm=arm.name,
            setting=self._setting.name,
            repeat=repeat,
            model=self._model,
            link=self._link,
            workload=self._setting.workload.record(),
            requests=result.requests,
            cloud_step_s=[seconds for _, seconds in result.steps],
            cloud_step_tokens=[num_tokens for num_tokens, _ in result.steps],
            notes=[
                *arm.notes,
                f"middle layers: {result.engine}",
                self._cores.note,
                *_relay_notes(relay),
            ],
        )


def _relay_notes(relay: RelayFigures | None) -> list[str]:
    if relay is None:
        return []
    return [
        f"the link's relay sent its packets {1e3 * relay.mean_late_s:.2f} ms late on average so "
        f"far, {1e3 * relay.worst_late_s:.1f} ms at worst"
    ]
