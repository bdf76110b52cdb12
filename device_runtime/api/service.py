"""What every handler needs, made once and passed down."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web

from device_runtime.api.drain import Drain
from device_runtime.api.errors import ApiError
from device_runtime.api.figures import LoneAnswers
from device_runtime.api.metrics import Metrics
from device_runtime.api.request.sampling import SamplingDefaults
from device_runtime.api.spans import NO_SPANS, Spans
from device_runtime.api.text_work import TextWork
from device_runtime.calling.layouts import GENERIC, Layout
from device_runtime.calling.probing import IN_WORDS, Telling
from device_runtime.generation.request import Generator
from device_runtime.grammar.compiling import Grammars
from device_runtime.text.chat_template import ChatTemplate
from device_runtime.text.control_tokens import ControlTokens
from device_runtime.text.tokenizer import Tokenizer
from device_runtime.thinking.marks import Marks
from process.world import Clock


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The model as clients see it, by its id or an alias. `fingerprint` is the bundle's (hex)."""

    id: str
    root: str
    created: int
    fingerprint: str
    eos_token_ids: tuple[int, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, the id first."""
        return (self.id, *self.aliases)

    def check(self, name: str | None) -> None:
        """A request may leave the model out; another model than the one served is not found.

        Raises:
            ApiError: 404 `model_not_found`.
        """
        if name is not None and name not in self.names:
            names = ", ".join(map(repr, self.names))
            message = f"the model {name[:200]!r} does not exist; this server has {names}"
            raise ApiError(404, message, code="model_not_found", param="model")

    @property
    def created_at(self) -> str:
        """`created` as a date of ISO 8601."""
        return datetime.fromtimestamp(self.created, UTC).isoformat()

    @property
    def system_fingerprint(self) -> str:
        """OpenAI's mark of what computed an answer."""
        return f"hat-{self.fingerprint[:12]}"

    @property
    def lone_fingerprint(self) -> str:
        """The same of one that the draft model gave alone."""
        return f"{self.system_fingerprint}-draft"


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may ask: a key (None: anyone), the origins of web pages, and under which names.

    `*` stands for any origin, `localhost` for pages served from this machine. `allowed_hosts` are
    names beside those of this machine; None answers to any name.
    """

    api_key: str | None = field(default=None, repr=False)
    cors_origins: tuple[str, ...] = ("localhost",)
    allowed_hosts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Patience with clients, in seconds.

    A silent stream gets a comment every `ping_s`: proxies close a connection that is silent for a
    minute, some after a quarter of it. A client may take `read_s` to send its request, and be
    stuck for `write_s` while it reads an answer.
    """

    ping_s: float = 5.0
    read_s: float = 60.0
    write_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Service:
    """The parts behind the endpoint.

    Of one request `max_side_by_side` choices are generated at once, and others behind them.
    """

    generator: Generator
    tokenizer: Tokenizer
    template: ChatTemplate
    model: ModelCard
    metrics: Metrics
    max_side_by_side: int
    clock: Clock
    """Monotonic."""
    unix_clock: Clock
    """Seconds since 1970, for the dates of answers."""
    access: AccessRules = AccessRules()
    timing: Timing = Timing()
    spans: Spans = NO_SPANS
    """What tells a collector of requests."""
    drain: Drain = field(default_factory=Drain)
    text_work: TextWork = field(default_factory=TextWork)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    grammars: Grammars = field(default_factory=lambda: Grammars("", 0, ()))
    """What compiles the grammars of answers."""
    call_layout: Layout = GENERIC
    """How the model writes calls of tools."""
    telling: Telling = IN_WORDS
    """How it is told of them."""
    thought_marks: Marks | None = None
    """Between which the model thinks; None: it does not."""
    control_tokens: ControlTokens | None = None
    """Those that the text of users is kept free of; None: it may hold what it likes."""
    lossy_codecs: Callable[[], Mapping[str, str]] = dict
    """Which rows are rounded on the link now, if any: `prompt`, `up` or `down`, and the codec."""
    lone_answers: LoneAnswers | None = None
    """What answers while there is no cloud; None: nothing does."""


SERVICE = web.AppKey("service", Service)
