"""Two recorded terminals as one animated SVG: CSS animation, and no script in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from terminal import NUM_COLUMNS, Run, Written, runs

WAIT_SHOWN_S, END_SHOWN_S = 5.0, 6.0
COLUMN, ROW, LEFT, HEAD, STRIP = 9.0, 20.0, 24.0, 56.0, 44.0
"""Sizes in the picture: of a character, of what is beside and above a terminal's text, and of the
line of words between the panels."""
WIDTH = 2 * LEFT + NUM_COLUMNS * COLUMN

STYLE = """
svg{--page:#fff;--ink:#1f2328;--faint:#6e7781;--blue:#2f62a8;--sky:#f4f8ff;--orange:#a8650c;
--sand:#fffaf1;--green:#1a7f37;--red:#c0262d}
@media(prefers-color-scheme:dark){svg{--page:#0d1117;--ink:#e6edf3;--faint:#8b949e;--blue:#79b0ff;
--sky:#101a2b;--orange:#e8a54b;--sand:#1e180f;--green:#6fdd8b;--red:#ff7b72}}
text{font:15px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
fill:var(--ink);white-space:pre}
.words{font:600 15px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
.page{fill:var(--page)}.typed{font-weight:600}.faint{fill:var(--faint)}.green{fill:var(--green)}
.red{fill:var(--red)}.cloud{fill:var(--blue)}.device,.cursor{fill:var(--orange)}
rect.cloud{fill:var(--sky);stroke:var(--blue)}rect.device{fill:var(--sand);stroke:var(--orange)}
.gone{visibility:hidden}[style]{animation:TOTAL step-end infinite}
@media(prefers-reduced-motion:reduce){[style]{animation:none!important}}
#still:target [style]{animation:none!important}
"""
"""Browsers tell a page's picture nothing of reduced motion: there, the page asks for `#still`."""
SPLIT = "Most layers run in the cloud; text and tokens stay on the device."
KILLED = "The cloud is killed in mid-answer, and the text waits"
BACK = "A new cloud that knows nothing: the device sends again what was lost."
SAME = "Killed, started again, and letter for letter the text of an undisturbed run."
LABEL = "Above, hat chat answers; below, hat cloud is killed and started again; the answer goes on"


@dataclass(frozen=True, slots=True)
class Scene:
    """What happened, in seconds of one clock."""

    begin_s: float
    killed_s: float
    back_s: float
    """The first words after the cloud was back."""
    end_s: float
    chat: Written
    cloud: Written

    @property
    def waited_s(self) -> float:
        """How long nothing was said."""
        return self.back_s - self.killed_s

    def shown_s(self, at_s: float) -> float:
        """When the picture shows it: as it was, but for the time without a cloud."""
        gone_s = min(max(at_s - self.killed_s, 0.0), self.waited_s)
        left_out_s = gone_s * max(1 - WAIT_SHOWN_S / self.waited_s, 0.0)
        return round(max(at_s - self.begin_s - left_out_s, 0.0), 1)


class Drawing:
    """Elements of the picture, and the times in which each is seen."""

    def __init__(self, total_s: float) -> None:
        self._total_s = total_s
        self._times: dict[tuple[float, float], str] = {}
        self.elements: list[str] = []

    def text(self, run: Run, x: float, y: float) -> None:
        """Words that come and go; where nothing may move, the last moment is seen."""
        gone = " gone" if run.gone_s < self._total_s else ""
        time = self._times.setdefault((run.come_s, run.gone_s), f"k{len(self._times)}")
        size = f' textLength="{len(run.text) * COLUMN:g}"' if "words" not in run.kind else ""
        self.elements.append(
            f'<text class="{run.kind}{gone}" style="animation-name:{time}" '
            f'x="{x:g}" y="{y:g}"{size}>{escape(run.text, quote=False)}</text>'
        )

    def panel(self, kind: str, title: str, top: float, shown: Sequence[Run]) -> float:
        """One terminal and its frame; returns where it ends."""
        height = HEAD + (1 + shown[-1].row) * ROW
        self.elements.append(
            f'<rect class="{kind}" x="1" y="{top + 1:g}" width="{WIDTH - 2:g}" '
            f'height="{height - 2:g}" rx="12"/>'
            f'<text class="words {kind}" x="{LEFT:g}" y="{top + 26:g}">{title}</text>'
        )
        for run in shown:
            if text := run.text.strip():
                column = run.column + run.text.index(text)
                y = top + HEAD + run.row * ROW
                self.text(replace(run, text=text), LEFT + column * COLUMN, y)
        return top + height

    def style(self) -> str:
        """Looks, and when what is seen."""
        lines = [STYLE.strip().replace("TOTAL", f"{self._total_s:g}s")]
        for (come_s, gone_s), name in self._times.items():
            steps = {0.0: "hidden", come_s: "visible", gone_s: "hidden", self._total_s: "visible"}
            shares = [f"{100 * s / self._total_s:.2f}%{{visibility:{v}}}" for s, v in steps.items()]
            lines.append(f"@keyframes {name}{{{''.join(shares)}}}")
        return "\n".join(lines)


def drawn(scene: Scene) -> str:
    """The animated picture."""
    killed_s, back_s, end_s = map(scene.shown_s, (scene.killed_s, scene.back_s, scene.end_s))
    total_s = end_s + END_SHOWN_S
    chat, cloud = (
        list(runs([(scene.shown_s(at_s), text) for at_s, text in written], total_s))
        for written in (scene.chat, scene.cloud)
    )
    answer = [
        replace(run, kind="green") if run.come_s >= back_s and not run.kind else run for run in chat
    ]
    drawing = Drawing(total_s)
    strip = drawing.panel("device", "your device", 0, answer)
    height = drawing.panel("cloud", "cloud", strip + STRIP, cloud)
    wait = f"({scene.waited_s:.0f} s, shortened to {WAIT_SHOWN_S:g})"
    for words, kind, come_s, gone_s in (
        (SPLIT, "cloud", 0.0, killed_s),
        (f"{KILLED} {wait}.", "red", killed_s, back_s),
        (BACK, "green", back_s, end_s),
        (SAME, "green", end_s, total_s),
    ):
        note = Run(0, 0, f"\u25cf  {words}", f"words {kind}", come_s, gone_s)
        drawing.text(note, LEFT, strip + STRIP / 2 + 5)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
        f'aria-label="{LABEL}" id="still" xml:space="preserve">\n<style>{drawing.style()}</style>\n'
        f'<rect class="page" width="{WIDTH:g}" height="{height:g}" rx="13"/>\n'
        + "\n".join([*drawing.elements, "</svg>\n"])
    )
