"""What a long prompt costs the others on engines of all speeds: the core in virtual time."""

from dataclasses import dataclass, field, replace

import pytest

from cloud_server.core.actions import ConnectionId
from tests.support.cloud_core import CONFIG, Cloud, opening, shallow_rows, states
from wire.messages import Fault, Reply, Want

PROMPT = 2500
FRAME = 500
SLOW = replace(
    CONFIG,
    capacity_tokens=1 << 16,
    max_context_tokens=8192,
    max_frame_tokens=512,
    credit_window_tokens=2048,
    step_budget_tokens=512,
    verify_tokens=32,
    max_sessions=64,
    target_step_s=0.25,
)


@dataclass
class Household:
    """A device that sends a long prompt, decodes beside it, and asks short questions."""

    cloud: Cloud
    connection: ConnectionId
    sent_rows: int = 0
    num_prompt_replies: int = 0
    asked_s: dict[int, float] = field(default_factory=dict)
    waits_s: list[float] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def open(self) -> int:
        number = self.cloud.next_session(self.connection)
        self.cloud.send(self.connection, opening(number, number, 4096))
        return number

    def send_prompt(self) -> None:
        """As much of it as credit allows; a quarter of it is kept for the others."""
        device = self.cloud.devices[self.connection]
        while self.sent_rows < PROMPT and device.num_available_tokens >= FRAME + 512:
            rows = shallow_rows(*range(FRAME))
            self.cloud.send(self.connection, states(1, self.sent_rows, rows, Want.NONE))
            self.sent_rows += FRAME

    def ask(self, number: int, num_rows: int) -> None:
        rows = shallow_rows(*range(num_rows))
        self.cloud.send(self.connection, states(number, 0, rows, Want.LAST))
        self.asked_s[number] = self.cloud.now

    def take(self) -> None:
        for message in self.cloud.received(self.connection):
            if isinstance(message, Fault):
                self.faults.append(message)
            if isinstance(message, Reply):
                self.num_prompt_replies += message.session == 1
                asked_s = self.asked_s.pop(message.session, None)
                if asked_s is not None:
                    self.waits_s.append(self.cloud.now - asked_s)


@pytest.mark.parametrize("fixed_s", [0.001, 0.03, 0.12])
@pytest.mark.parametrize("row_s", [0.0005, 0.005, 0.02])
@pytest.mark.parametrize("num_rows", [1, 5])
def test_short_requests_and_decoding_go_on_beside_a_long_prompt(
    fixed_s: float, row_s: float, num_rows: int
) -> None:
    cloud = Cloud(SLOW)
    home = Household(cloud, cloud.connect())
    home.open()
    decoding, num_steps, begun_s = home.open(), 0, cloud.now
    while home.num_prompt_replies < PROMPT // FRAME:
        home.send_prompt()
        if decoding not in home.asked_s:
            home.ask(decoding, num_rows)
        if num_steps % 20 == 10 and num_steps < 200:
            home.ask(home.open(), 20)
        step = cloud.core.next_step(cloud.now)
        assert step is not None
        seconds = fixed_s + row_s * step.num_tokens
        cloud.pass_time(seconds)
        cloud.finish_step(step, seconds)
        num_steps += 1
        home.take()
    assert home.faults == [], "nothing that waits is ended"
    # A decoding neighbour waits for the step under way and its own, and 20 rows for a few.
    step_s = max(0.25, 2 * (fixed_s + 8 * row_s), fixed_s + 16 * row_s)
    assert max(home.waits_s) <= 2 * step_s + 20 * row_s
    # And the prompt moves: as if it were alone in whole steps, and a few times as long at the most.
    whole_s = PROMPT * row_s + PROMPT / 512 * fixed_s
    assert cloud.now - begun_s <= 4 * whole_s + 10
