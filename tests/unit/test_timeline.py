"""The bars of a request's timeline."""

from device_runtime.generation.timeline import Span, Timeline


def test_nothing_is_kept_unless_asked_for() -> None:
    timeline = Timeline()
    timeline.worked("draft", 1.0, 2.0, 3)
    timeline.sent((1, 0), "prefill", 5, 2.0)
    timeline.answered((1, 0), 0.0, 0.1, 3.0)
    assert not timeline.is_kept
    assert timeline.spans(None) == []


def test_a_frame_goes_up_waits_is_computed_and_comes_down() -> None:
    timeline = Timeline(begun_s=10.0)
    timeline.worked("prefill", 10.0, 10.5, 8)
    timeline.sent((1, 0), "prefill", 8, 10.5)
    timeline.answered((1, 0), queue_s=0.25, compute_s=0.5, now=12.0)
    assert timeline.spans(link_delay_s=0.25) == [
        Span("device", "prefill", 0.0, 0.5, 8),
        Span("uplink", "prefill", 0.5, 1.125, 8),
        Span("cloud", "prefill", 1.375, 1.875, 8),
        Span("downlink", "prefill", 1.875, 2.0, 8),
    ]


def test_a_frame_goes_up_behind_the_one_before() -> None:
    timeline = Timeline(begun_s=0.0)
    timeline.sent((1, 0), "prefill", 4, 0.0)
    timeline.sent((1, 4), "prefill", 4, 0.25)
    timeline.answered((1, 0), 0.0, 0.25, 1.5)
    timeline.answered((1, 4), 0.0, 0.25, 2.5)
    uplink = [span for span in timeline.spans(0.5) if span.lane == "uplink"]
    assert [(span.start_s, span.end_s) for span in uplink] == [(0.0, 1.0), (1.0, 2.0)]


def test_a_frame_without_a_reply_leaves_no_bar() -> None:
    timeline = Timeline(begun_s=0.0)
    timeline.sent((2, 7), "verify", 3, 0.5)
    timeline.answered((1, 7), 0.0, 0.1, 0.75)
    assert timeline.spans(0.1) == []


def test_the_cloud_never_used_more_time_than_passed() -> None:
    timeline = Timeline(begun_s=0.0)
    timeline.sent((1, 0), "verify", 1, 1.0)
    timeline.answered((1, 0), queue_s=0.5, compute_s=1.0, now=2.0)
    assert all(span.end_s >= span.start_s for span in timeline.spans(None))
