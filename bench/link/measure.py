"""Measures an open link between its own two ends, and writes down what it was and is."""

import subprocess
import sys
from dataclasses import dataclass

import msgspec

from bench.link.shaped_link import LinkError, ShapedLink
from bench.measures import percentile
from bench.records import LinkRecord

_PHASE_S = 0.8
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """What a link did. Rates are what one TCP connection got through, without any headers.

    `rtt_s` has min, p50, p90, p99 and max. `congestion_control` is the kernel's name for it.
    """

    rtt_s: dict[str, float]
    num_rtts: int
    uplink_bytes_per_s: float
    downlink_bytes_per_s: float
    congestion_control: str


class _Found(msgspec.Struct):
    rtts_s: list[float]
    uplink_bytes_per_s: float
    downlink_bytes_per_s: float
    congestion_control: str


def measure_link(link: ShapedLink, phase_s: float = _PHASE_S) -> MeasuredLink:
    """Three phases of `phase_s`, one after the other: small echoes, all up, all down.

    Raises:
        LinkError: nothing came through, or not in a minute.
    """
    ends = [sys.executable, "-m", "bench.link.ends"]
    cloud = subprocess.Popen(
        link.cloud_command([*ends, "cloud", link.bind_host]), stdout=subprocess.PIPE, text=True
    )
    try:
        assert cloud.stdout is not None
        port = cloud.stdout.readline().strip()
        if not port:
            raise LinkError(f"measuring: the cloud's end did not start ({cloud.wait()})")
        target = [link.cloud_host, str(link.forward(int(port))), str(phase_s)]
        argv = link.device_command([*ends, "device", *target])
        result = subprocess.run(argv, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise LinkError(f"measuring: nothing within {_TIMEOUT_S:g} s") from error
    finally:
        cloud.kill()
        cloud.communicate()
    if result.returncode != 0:
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise LinkError(f"measuring: {''.join(last)}")
    return _summary(msgspec.json.decode(result.stdout, type=_Found))


def _summary(found: _Found) -> MeasuredLink:
    rtt_s = {f"p{share}": percentile(found.rtts_s, share) for share in (50, 90, 99)}
    return MeasuredLink(
        {"min": min(found.rtts_s), **rtt_s, "max": max(found.rtts_s)},
        len(found.rtts_s),
        found.uplink_bytes_per_s,
        found.downlink_bytes_per_s,
        found.congestion_control,
    )


def link_record(link: ShapedLink, measured: MeasuredLink | None = None) -> LinkRecord:
    """The link as results keep it."""
    spec = link.spec
    return LinkRecord(
        kind=link.kind.value,
        uplink_bytes_per_s=spec.uplink_bytes_per_s,
        downlink_bytes_per_s=spec.downlink_bytes_per_s,
        delay_s=spec.delay_s,
        jitter_s=spec.jitter_s,
        loss=spec.loss,
        trace=spec.trace,
        measured_rtt_s=None if measured is None else measured.rtt_s,
        measured_uplink_bytes_per_s=None if measured is None else measured.uplink_bytes_per_s,
        measured_downlink_bytes_per_s=None if measured is None else measured.downlink_bytes_per_s,
    )
