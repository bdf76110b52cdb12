"""What a TCP connection's slow start adds to an upload, on a new connection and after a pause.

A sender may have one window of bytes unacknowledged. It begins with `INITIAL_WINDOW_BYTES`, and
begins so again after an idle time longer than its retransmission timeout (RFC 5681, section 4.1),
which Linux does unless `net.ipv4.tcp_slow_start_after_idle` is 0. Each acknowledgement lets as much
go as it confirms and as much again, so each round trip sends twice what the one before sent, and
the link rests for what is left of it. Once a window takes a round trip to send, it rests no more.
"""

SEGMENT_BYTES = 1448
"""Of data in an Ethernet frame, with IPv4 and TCP's time stamps."""

INITIAL_WINDOW_BYTES = 10 * SEGMENT_BYTES
"""RFC 6928; Linux since 2.6.39. With several connections, so much for each of them."""


def ramp_s(num_bytes: int, rate_bytes_s: float, rtt_s: float, window_bytes: int) -> float:
    """How much longer the upload takes than on a warm connection, in seconds.

    Args:
        num_bytes: All that is to be sent now, at least 0.
        rate_bytes_s: What the link carries, more than 0; may be infinite.
        rtt_s: The round trip of an empty link, at least 0.
        window_bytes: What may go at once, at least 1: `INITIAL_WINDOW_BYTES` times connections.

    Raises:
        ValueError: an argument is outside its range.
    """
    if num_bytes < 0 or not rate_bytes_s > 0.0 or not rtt_s >= 0.0 or window_bytes < 1:
        raise ValueError(
            "expected num_bytes >= 0, rate_bytes_s > 0, rtt_s >= 0 and window_bytes >= 1, got "
            f"{num_bytes}, {rate_bytes_s}, {rtt_s} and {window_bytes}"
        )
    added_s = 0.0
    left = num_bytes - window_bytes
    while left > 0 and (rest_s := rtt_s - window_bytes / rate_bytes_s) > 0.0:
        added_s += rest_s
        window_bytes *= 2
        left -= window_bytes
    return added_s
