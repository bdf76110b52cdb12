"""Links as text: what is understood, and what is refused with which words."""

import pytest

from bench.link.spec import (
    MIN_QUEUE_BYTES,
    LinkSpec,
    LinkSpecError,
    link_text,
    parse_link_spec,
)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("loopback", LinkSpec()),
        ("up=20mbit", LinkSpec(uplink_bytes_per_s=2.5e6)),
        ("down=1gbit", LinkSpec(downlink_bytes_per_s=1.25e8)),
        ("rtt=40ms", LinkSpec(delay_s=0.02)),
        ("delay=0.5s", LinkSpec(delay_s=0.5)),
        ("trace=oboe-0 , delay=5ms", LinkSpec(trace="oboe-0", delay_s=0.005)),
        ("up=800kbit,queue=64kb", LinkSpec(uplink_bytes_per_s=1e5, queue_bytes=64_000)),
        ("loss=1%,burst=30ms", LinkSpec(loss=0.01, burst_s=0.03)),
        ("reorder=2%", LinkSpec(reorder=0.02)),
        ("reorder=2%,late=8ms", LinkSpec(reorder=0.02, late_s=0.008)),
        ("up=8mbit,move=10s", LinkSpec(uplink_bytes_per_s=1e6, move_s=10.0)),
        (
            "up=20Mbit, down=50 mbit, rtt=40ms, jitter=2ms, loss=0.5%",
            LinkSpec(2.5e6, 6.25e6, 0.02, 0.002, 0.005),
        ),
    ],
)
def test_a_link_is_read_and_written_the_same(text: str, spec: LinkSpec) -> None:
    assert parse_link_spec(text) == spec
    assert parse_link_spec(link_text(spec)) == spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "link: expected text like up=20mbit,down=50mbit,rtt=40ms"),
        ("fast", "link: expected text like up=20mbit,down=50mbit"),
        ("up=", "got 'up='"),
        ("speed=20mbit", "link: expected one of up, down, rtt, delay, jitter, loss, burst, "),
        ("up=20mbit,up=30mbit", "link: expected up once, got it twice"),
        ("up=20mb", "up: expected a number with bit or kbit or mbit or gbit, such as 20mbit"),
        ("up=20", "such as 20mbit; got '20'"),
        ("up=-1mbit", "got '-1mbit'"),
        ("up=0mbit", "uplink_bytes_per_s: expected more than 0 and finite, got 0.0"),
        ("rtt=40", "rtt: expected a number with us or ms or s, such as 40ms; got '40'"),
        ("rtt=1000s", "delay_s: expected 0 to 10, got 500.0"),
        ("rtt=40ms,delay=20ms", "link: expected rtt or delay, got both"),
        ("loss=0.5", "loss: expected a number with %, such as 0.5%; got '0.5'"),
        ("loss=100%", "loss: expected at least 0 and less than 1, got 1.0"),
        ("burst=30ms", "burst: expected a loss that comes in bursts, got none"),
        ("loss=1%,burst=11s", "burst_s: expected 0 or 0.001 to 10, got 11.0"),
        ("reorder=100%", "reorder: expected at least 0 and less than 1, got 1.0"),
        ("reorder=1%,late=0ms", "late_s: expected more than 0 and at most 10, got 0.0"),
        ("late=5ms", "link: expected late with reorder, got it alone"),
        ("move=10ms", "move_s: expected at least 0.5 and finite, got 0.01"),
        ("trace=oboe-0,up=1mbit", "expected rates or a trace, got both"),
        ("up=1mbit,queue=1kb", "queue_bytes: expected room for a packet, 1514, got 1000"),
    ],
)
def test_a_wrong_link_is_refused_with_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(LinkSpecError) as caught:
        parse_link_spec(text)
    assert expected in str(caught.value)


def test_the_buffer_is_one_bandwidth_delay_product_but_never_tiny() -> None:
    assert parse_link_spec("rtt=40ms").buffer_bytes(2.5e6) == 100_000
    assert parse_link_spec("rtt=1ms").buffer_bytes(1e5) == MIN_QUEUE_BYTES
    assert parse_link_spec("rtt=40ms,queue=5kb").buffer_bytes(2.5e6) == 5000
