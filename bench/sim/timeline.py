"""The bars of a request's timeline: who worked on it when."""

from bench.records import Span


class Timeline:
    """Of one request; keeps nothing unless `is_kept`. Times count from `arrival_s`."""

    def __init__(self, arrival_s: float, is_kept: bool) -> None:
        self._arrival_s = arrival_s
        self._is_kept = is_kept
        self._sent: dict[tuple[int, int], tuple[float, str, int]] = {}
        self._one_way_s = (0.0, 0.0)
        self.spans: list[Span] = []

    def delays(self, up_s: float, down_s: float) -> None:
        """How a frame's way is shared out where only its sum is known."""
        self._one_way_s = (up_s, down_s)

    def add(self, lane: str, what: str, start_s: float, end_s: float, num_tokens: int) -> None:
        """One bar."""
        if self._is_kept:
            bar = (round(start_s - self._arrival_s, 9), round(end_s - self._arrival_s, 9))
            self.spans.append(
                Span(lane=lane, what=what, start_s=bar[0], end_s=bar[1], num_tokens=num_tokens)
            )

    def sent(self, key: tuple[int, int], now: float, what: str, num_tokens: int) -> None:
        """A frame was handed to the link."""
        if self._is_kept:
            self._sent[key] = (now, what, num_tokens)

    def answered(self, key: tuple[int, int], now: float, queue_s: float, compute_s: float) -> None:
        """Its reply is taken: the way up, the cloud's work and the way down, as far as known.

        The way down is taken to be the least it can be, the rest is the way up.
        """
        if not self._is_kept or key not in self._sent:
            return
        sent_s, what, num_tokens = self._sent.pop(key)
        down_s = min(self._one_way_s[1], max(0.0, now - sent_s - compute_s))
        done_s = now - down_s
        began_s = max(sent_s, done_s - compute_s)
        self.add("uplink", what, sent_s, max(sent_s, began_s - queue_s), num_tokens)
        self.add("cloud", what, began_s, done_s, num_tokens)
        self.add("downlink", what, done_s, now, num_tokens)
