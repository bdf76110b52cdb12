"""`python -m bench.transport`: what TCP does with a device's messages on a shaped link."""

import itertools
from pathlib import Path
from statistics import median

import click
import msgspec

from bench.link.shaped_link import LinkError
from bench.link.spec import LinkSpecError, parse_link_spec
from bench.transport.beside import contest, tables
from bench.transport.first_chunk import ARMS, Question, measure, table
from bench.transport.uploader import Work
from bench.transport.verifying import table as verified_table
from bench.transport.verifying import verifying


@click.group()
def main() -> None:
    """What TCP does with a device's messages on a shaped link. Needs root, for namespaces."""


@main.command("first-chunk")
@click.option("--arms", default="one,four,bbr,setting", show_default=True, metavar="A,B,...")
@click.option("--rtts", default="10,40,80", show_default=True, metavar="MS,...")
@click.option("--rates", default="20,200", show_default=True, metavar="MBIT,...", help="Up.")
@click.option("--sizes", default="160000,2000000", show_default=True, metavar="BYTES,...")
@click.option("--pauses", default="1,10,60", show_default=True, metavar="S,...")
@click.option("--tries", default=5, show_default=True, type=click.IntRange(1))
@click.option("--least", is_flag=True, help="Print the least of the tries, not their median.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON of all tries.")
def first_chunk(
    arms: str,
    rtts: str,
    rates: str,
    sizes: str,
    pauses: str,
    tries: int,
    least: bool,
    out: Path | None,
) -> None:
    """Time of the first chunk after a pause against a warm one, in ms, and their ratio."""
    names = arms.split(",")
    if unknown := [name for name in names if name not in ARMS]:
        raise click.UsageError(f"expected arms of {', '.join(ARMS)}; got {', '.join(unknown)}")
    try:
        specs = [
            parse_link_spec(f"up={rate}mbit,down={rate}mbit,rtt={rtt}ms")
            for rtt, rate in itertools.product(rtts.split(","), rates.split(","))
        ]
        question = Question(
            sizes=tuple(map(int, sizes.split(","))),
            pauses_s=tuple(map(float, pauses.split(","))),
            num_tries=tries,
        )
        result = measure(
            specs, [ARMS[name] for name in names], question, lambda line: click.echo(line, err=True)
        )
    except (LinkError, LinkSpecError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if out is not None:
        out.write_bytes(msgspec.json.encode(result))
    click.echo(table(result, min if least else median))


@main.command("contest")
@click.option(
    "--link",
    "links",
    multiple=True,
    default=(
        "up=20mbit,down=50mbit,rtt=40ms",
        "up=20mbit,down=50mbit,rtt=40ms,loss=1%",
        "up=20mbit,down=50mbit,rtt=40ms,loss=5%",
        "up=20mbit,down=50mbit,rtt=40ms,loss=1%,burst=30ms",
        "up=20mbit,down=50mbit,rtt=40ms,queue=400kb",
    ),
    show_default=True,
)
@click.option("--congestion", default="cubic,bbr", show_default=True, metavar="NAME,...")
@click.option("--seconds", default=15.0, show_default=True, type=click.FloatRange(1.0))
@click.option("--tries", default=3, show_default=True, type=click.IntRange(1))
@click.option("--urgent-bytes", default=8192, show_default=True, type=click.IntRange(1, 1 << 20))
@click.option(
    "--urgent-every", default=0.1, show_default=True, type=click.FloatRange(0.01), help="S."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON of all tries.")
def contest_command(
    links: tuple[str, ...],
    congestion: str,
    seconds: float,
    tries: int,
    urgent_bytes: int,
    urgent_every: float,
    out: Path | None,
) -> None:
    """Congestion controls: uploads, urgent messages beside them, two uploads on one link."""
    try:
        specs = [parse_link_spec(link) for link in links]
        like = Work(seconds=seconds, urgent_bytes=urgent_bytes, urgent_every_s=urgent_every)
        result = contest(specs, congestion.split(","), like, tries)
    except (LinkError, LinkSpecError) as error:
        raise click.ClickException(str(error)) from error
    if out is not None:
        out.write_bytes(msgspec.json.encode(result))
    click.echo("\n".join(tables(result)))


@main.command("verifying")
@click.option(
    "--link",
    "links",
    multiple=True,
    default=(
        "up=20mbit,down=50mbit,rtt=40ms",
        "up=20mbit,down=50mbit,rtt=40ms,loss=1%",
        "up=20mbit,down=50mbit,rtt=40ms,loss=5%",
    ),
    show_default=True,
)
@click.option("--seconds", default=15.0, show_default=True, type=click.FloatRange(1.0))
@click.option("--tries", default=3, show_default=True, type=click.IntRange(1))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON of all tries.")
def verifying_command(links: tuple[str, ...], seconds: float, tries: int, out: Path | None) -> None:
    """Our device's verifications beside a prompt's upload, by its number of connections."""
    try:
        specs = [parse_link_spec(link) for link in links]
        result = verifying(specs, seconds, tries, lambda line: click.echo(line, err=True))
    except (LinkError, LinkSpecError) as error:
        raise click.ClickException(str(error)) from error
    if out is not None:
        out.write_bytes(msgspec.json.encode(result))
    click.echo("\n".join(verified_table(result)))


if __name__ == "__main__":
    main()
