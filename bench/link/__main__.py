"""`python -m bench.link 'up=20mbit,down=50mbit,rtt=40ms'`: opens a link, measures it, closes it."""

import click

from bench.link.measure import MeasuredLink, measure_link
from bench.link.opening import open_link, reason_against
from bench.link.rates import trace_names
from bench.link.shaped_link import LinkError, LinkKind, RelayFigures
from bench.link.spec import LinkSpecError, link_text, parse_link_spec


@click.command(epilog="Traces: " + ", ".join(trace_names()))
@click.argument("link")
@click.option(
    "--kind", type=click.Choice([kind.value for kind in LinkKind]), help="Only this kind."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all chances.")
def main(link: str, kind: str | None, seed: int) -> None:
    """Open LINK, such as up=20mbit,down=50mbit,rtt=40ms,jitter=2ms,loss=0.5%, and measure it.

    burst=30ms loses in bursts of that mean length; reorder=1%,late=5ms lets packets be overtaken;
    move=10s gives the device's end another address that often.
    """
    try:
        spec = parse_link_spec(link)
        with open_link(spec, seed, kind=None if kind is None else LinkKind(kind)) as opened:
            click.echo(f"asked     {link_text(spec)}")
            reason = (
                reason_against(LinkKind.TAP) if opened.kind is LinkKind.TCP and not kind else None
            )
            click.echo(f"kind      {opened.kind}" + (f" ({reason})" if reason else ""))
            click.echo(_lines(measure_link(opened)))
            if (figures := opened.figures()) is not None:
                click.echo(_relay_line(figures))
    except (LinkError, LinkSpecError) as error:
        raise click.ClickException(str(error)) from error


def _lines(measured: MeasuredLink) -> str:
    rtt = ", ".join(f"{name} {value * 1e3:.2f}" for name, value in measured.rtt_s.items())
    rates = (("uplink", measured.uplink_bytes_per_s), ("downlink", measured.downlink_bytes_per_s))
    lines = [f"RTT, ms   {rtt} ({measured.num_rtts} echoes)"]
    lines += [f"{name:9} {rate * 8 / 1e6:.2f} Mbit/s" for name, rate in rates]
    lines.append(f"TCP       {measured.congestion_control}")
    return "\n".join(lines)


def _relay_line(figures: RelayFigures) -> str:
    late = f"{figures.mean_late_s * 1e3:.3f} ms late on average, {figures.worst_late_s * 1e3:.2f}"
    return (
        f"relay     {figures.num_carried} frames, {figures.num_dropped} dropped, {late} at worst, "
        f"{figures.cpu_s:.2f} s of processor time"
    )


if __name__ == "__main__":
    main()
