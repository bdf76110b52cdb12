"""Opens links of the best kind that this machine allows."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.link.shaped_link import LinkError, LinkKind, ShapedLink
from bench.link.spec import LinkSpec


@contextmanager
def open_link(
    spec: LinkSpec, seed: int = 0, *, kind: LinkKind | None = None
) -> Iterator[ShapedLink]:
    """One link, closed with the block.

    Args:
        kind: None takes netem if the kernel has it, else the userspace relay between network
            namespaces, else (not root, or no TUN device) the TCP relay. Not shaped: loopback.

    Raises:
        LinkError: it cannot be opened as asked.
        LinkSpecError: the trace does not exist.
    """
    with open_links(spec, 1, seed, kind=kind) as (link,):
        yield link


@contextmanager
def open_links(
    spec: LinkSpec, num_links: int, seed: int = 0, *, kind: LinkKind | None = None
) -> Iterator[tuple[ShapedLink, ...]]:
    """Several equal links, each with its own device's end, and one cloud's end for all of them."""
    if spec.is_shaped:
        raise LinkError("shaped links cannot be opened yet")
    here = "127.0.0.1"
    yield (ShapedLink(LinkKind.LOOPBACK, spec, here, here, here),) * num_links
