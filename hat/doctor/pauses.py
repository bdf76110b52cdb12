"""What a pause costs on the link, since TCP begins slowly after it, and what mends that."""

from math import inf

from chunking.ramp import INITIAL_WINDOW_BYTES, ramp_s
from hat.doctor.cloud import CloudFindings, LinkFindings
from hat.quantities import num_bytes, seconds

SETTING = "net.ipv4.tcp_slow_start_after_idle"
REMEDY = "bbr"
"""The congestion control that goes on after a pause as before it."""

_CHUNK_BYTES = 160_000
_PROMPT_TOKENS = 1000


def prompt_bytes(link: LinkFindings, cloud: CloudFindings) -> int:
    """Of a prompt of 1,000 tokens, coded if rows are here."""
    share = 1.0 if link.coding is None else link.coding.share
    return round(share * _PROMPT_TOKENS * cloud.row_bytes)


def pause_s(link: LinkFindings, size: int) -> float:
    """How much longer so many bytes take after a pause than on a warm connection, as modelled.

    It counts in full only where the link is what the upload waits for.
    """
    if not link.is_slow_after_pause:
        return 0.0
    return ramp_s(size, link.up_bytes_per_s or inf, link.delay_s, INITIAL_WINDOW_BYTES)


def told(link: LinkFindings, cloud: CloudFindings) -> str:
    """A line for the report."""
    if link.is_slow_after_pause is None:
        return "what a pause costs on the way up cannot be seen on this system"
    if not link.is_slow_after_pause:
        why = REMEDY if link.congestion_control == REMEDY else f"{SETTING} is 0 here"
        return f"a pause costs nothing on the way up: {why}"
    chunk_s, prompt_s = pause_s(link, _CHUNK_BYTES), pause_s(link, prompt_bytes(link, cloud))
    return (
        f"after a pause {num_bytes(_CHUNK_BYTES)} up take {seconds(chunk_s)} longer and a prompt "
        f"of {_PROMPT_TOKENS:,} tokens {seconds(prompt_s)}: {link.congestion_control} begins slowly"
    )
