"""What a run leaves behind: every request's times and counts, and what they were measured on.

Live runs and simulations write the same records, so that one report can set them side by side.
A file holds one `Run` as JSON. No text and no token ids: an answer is known by its hash.
"""

import itertools
from pathlib import Path

import msgspec

from process.errors import UserError

FORMAT = 1


class RunFileError(UserError):
    """A file is not a run of this format; the message has its name and what is wrong."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Where numbers come from. `command` can be typed again; `started` is UTC, ISO 8601.

    A simulation's receipt has no `started` and no `load_average`: the same seed gives the same
    bytes.
    """

    commit: str
    command: list[str]
    seed: int
    hardware: str
    num_cores: int
    versions: dict[str, str]
    started: str | None = None
    load_average: float | None = None


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`has_real_weights` False means: seeded random numbers, no acceptance is to be read off."""

    name: str
    fingerprint: str
    num_layers: int
    num_input_layers: int
    num_output_layers: int
    hidden_size: int
    dtype: str
    has_real_weights: bool
    intermediate_size: int = 0
    """Of a layer's feed-forward network; 0 where it was not noted, as is `kv_size`."""
    kv_size: int = 0
    """Numbers of a position's key in one layer, over all its heads."""


class LinkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A link as asked for, and as measured between the same two ends just before the run.

    `kind` says what shaped it: netem, tap (userspace relay between network namespaces), tcp
    (unprivileged relay, which hides TCP's own dynamics), loopback, or simulated. Rates None:
    not limited. `delay_s` is one way, the same in each direction. Troubles are those of
    `bench.link.spec.LinkSpec`. `trace` names a recorded trace,
    which then sets the rates. `measured_rtt_s` has a figure by its name, `p50` at least.
    """

    kind: str
    uplink_bytes_per_s: float | None = None
    downlink_bytes_per_s: float | None = None
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    trace: str | None = None
    burst_s: float = 0.0
    reorder: float = 0.0
    late_s: float = 0.0
    move_s: float | None = None
    measured_rtt_s: dict[str, float] | None = None
    measured_uplink_bytes_per_s: float | None = None
    measured_downlink_bytes_per_s: float | None = None


class WorkloadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Which prompts came when. `arrivals`: closed (each device asks when its last answer is there),
    poisson, or a trace's name; `requests_per_s` is over all devices."""

    name: str
    arrivals: str
    num_devices: int
    num_requests: int
    max_output_tokens: int
    temperature: float
    requests_per_s: float | None = None
    top_p: float = 1.0
    is_chat: bool = False
    """Whether prompts are a user's messages, in the model's chat template, or texts to continue."""
    repetition_penalty: float = 1.0
    """1: none."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One bar of a request's timeline, in seconds from the request's arrival.

    `lane` is device, uplink, cloud or downlink; `what` is prefill, draft, verify or ahead.
    """

    lane: str
    what: str
    start_s: float
    end_s: float
    num_tokens: int


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Times in seconds; `arrival_s` from the run's start, the rest from the arrival.

    `emissions` are `[time, tokens]` of each piece of the answer as the client got it. `seconds` is
    where the time went (`hat` field of the answer, summed by phase) for arms that tell; its `total`
    is their sum. Entry i of the lists by position is about the (i + 1)-th token of a round's draft.
    `spans` only for the few requests whose timeline is kept. `error` is a code, None if it ended.
    """

    number: int
    device: int
    prompt_tokens: int
    arrival_s: float
    emissions: list[tuple[float, int]]
    output_sha256: str
    rounds: int = 0
    drafted_by_position: list[int] = []
    accepted_by_position: list[int] = []
    pipelined_rows: int = 0
    stale_rows: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    chunk_tokens: list[int] = []
    seconds: dict[str, float] = {}
    spans: list[Span] = []
    error: str | None = None
    category: str = ""
    """Of the prompt, where its set has any."""

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer."""
        return sum(count for _, count in self.emissions)


UNFINISHED = "unfinished"
"""The error of a request that was under way when its run was cut off."""


class SteadyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a run under open-ended load came to rest. `state`: settled, growing or undecided.

    The requests of its cell are those that came in `[warm_up_s, until_s]`; those that were under
    way when a run was cut off have the error "unfinished". In that time the backlog, requests that
    had come and were not answered, grew by `growth_per_s` requests a second in the mean, with that
    standard error, and was `backlog` at its end.
    """

    state: str
    warm_up_s: float
    until_s: float
    growth_per_s: float
    growth_error_per_s: float
    backlog: int

    @property
    def is_settled(self) -> bool:
        """Whether the figures would be the same in a longer run."""
        return self.state == "settled"

    @property
    def text(self) -> str:
        """A few words for tables and pictures."""
        if self.is_settled:
            return f"settled after {self.warm_up_s:g} s"
        if self.state == "growing":
            growth = f"{self.growth_per_s:.3g} requests/s"
            return f"not settled: the queue still grows by {growth} after {self.until_s:g} s"
        return f"not settled: no level to be seen after {self.until_s:g} s"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One arm at one setting. `cloud_step_s` are the engine's steps, in their order, and
    `cloud_step_tokens` the rows of each where they are known.

    Arms of a run that share `setting` differ in nothing but the method. `repeat` counts the
    interleaved passes. `steady` is there where requests never ceased.
    """

    arm: str
    setting: str
    repeat: int
    model: ModelRecord
    link: LinkRecord
    workload: WorkloadRecord
    requests: list[RequestRecord]
    cloud_step_s: list[float] = []
    cloud_step_tokens: list[int] = []
    num_replicas: int = 1
    notes: list[str] = []
    steady: SteadyRecord | None = None


PAPER_TOLERANCE = 0.15
"""What a ratio of the paper is held to."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of the paper beside ours: `name` is what it is about, `metric` what was measured.

    `note` explains a difference; without one the report marks what is far off as unexplained.
    """

    name: str
    metric: str
    paper: float
    ours: float
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the paper's."""
        return self.ours / self.paper if self.paper else None

    @property
    def is_far_off(self) -> bool:
        """Beyond what a ratio of the paper is held to."""
        return self.ratio is None or abs(self.ratio - 1) > PAPER_TOLERANCE


CLOUD_ON = ", cloud on "
"""In a simulated setting's name: behind it stands the machine that the cloud's steps were computed
for, before it the live setting's name."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """All cells of one command. `kind` is live or sim."""

    kind: str
    receipt: Receipt
    cells: list[Cell]
    comparisons: list[Comparison] = []
    format: int = FORMAT


def write_run(path: Path, run: Run) -> None:
    """Write a run, a line per cell and per request; the same run gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.encode(run)
    # Only structure matches: within a string each of these quotes would have a backslash.
    for first_field in (b'{"arm":', b'{"number":'):
        content = content.replace(first_field, b"\n" + first_field)
    path.write_bytes(content + b"\n")


def read_run(path: Path) -> Run:
    """Read a run.

    Raises:
        RunFileError: it cannot be read, is not a run of this format, or has impossible times.
    """
    try:
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=_Format).format
        if found != FORMAT:
            raise RunFileError(f"{path}: expected format {FORMAT}, got {found}")
        run = msgspec.json.decode(content, type=Run)
    except OSError as error:
        raise RunFileError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunFileError(f"{path}: expected a run of `hat bench`: {error}") from error
    for cell in run.cells:
        for request in cell.requests:
            _check(path, cell, request)
    return run


class _Format(msgspec.Struct):
    """Read by itself first: a run of another format need not have the fields of this one."""

    format: int


def _check(path: Path, cell: Cell, request: RequestRecord) -> None:
    """Times go forward from the arrival, and no piece has fewer than no tokens."""
    times = [0.0, *(time_s for time_s, _ in request.emissions)]
    forward = all(before <= after for before, after in itertools.pairwise(times))
    if not forward or any(count < 0 for _, count in request.emissions):
        place = f"arm {cell.arm}, setting {cell.setting}, request {request.number}"
        raise RunFileError(f"{path}: {place}: expected times that go forward, and token counts")
