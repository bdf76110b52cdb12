"""By which name or address devices reach a cloud, as far as it can know that itself."""

from collections.abc import Sequence

from process.addresses import is_address, is_wildcard
from process.program.exposure import is_loopback


def reached_at(
    host: str,
    own: Sequence[str],
    certified: Sequence[str] | None = None,
    *,
    is_pinned: bool = False,
) -> str:
    """What to give devices as this cloud's host.

    Args:
        host: Where it listens, perhaps on all addresses.
        own: Under which this machine may be asked for, as `own_names` lists them, behind what the
            operator has named.
        certified: The names in its certificate; None: it shows none.
        is_pinned: Devices know its key and look at no name.

    Returns:
        The first of its own that the certificate is for, then what the certificate names. An
        address comes before a host's bare name, which others may not find, and this machine's own
        loopback last.
    """
    candidates = _best_first(own or (host,), is_wildcard(host))
    if certified is None or is_pinned:
        return candidates[0]
    fitting = [name for name in candidates if any(_is_for(each, name) for each in certified)]
    near = [name for name in fitting if is_loopback(name)]
    far = [name for name in fitting if not is_loopback(name)]
    whole = [name for name in certified if not name.startswith("*.") and not is_loopback(name)]
    below = [f"NAME{name[1:]}" for name in certified if name.startswith("*.")]
    return (*far, *whole, *below, *near, *candidates)[0]


def _best_first(names: Sequence[str], listens_everywhere: bool) -> list[str]:
    """The order in which somebody else is told of names."""
    ranks = {name: _rank(name) if listens_everywhere else is_loopback(name) for name in names}
    return sorted(names, key=lambda name: ranks[name])


def _rank(name: str) -> int:
    if is_loopback(name):
        return 3
    if is_address(name):
        return 1
    # What has a domain was named by somebody; a bare name is what the machine calls itself.
    return 0 if "." in name else 2


def _is_for(certified: str, name: str) -> bool:
    """Whether one name of a certificate is for this host (RFC 9525, section 6.3)."""
    certified, name = certified.lower().rstrip("."), name.lower().rstrip(".")
    if certified.startswith("*.") and not is_address(name):
        return name.partition(".")[2] == certified[2:]
    return certified == name
