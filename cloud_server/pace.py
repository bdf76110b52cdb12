"""How many rows a step may have, and when a refused device may come back."""

from cloud_server.core_config import CoreConfig
from cloud_server.load import StepTimes, suggest_retry_s


class Pace:
    """The core's measured step times under its settings."""

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self._times = StepTimes()

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn from one step of `num_tokens` rows."""
        self._times.observe(num_tokens, seconds)

    def estimate_s(self, num_tokens: int) -> float | None:
        """How long a step of so many rows takes; None before the first one."""
        return self._times.estimate_s(num_tokens)

    def budget_tokens(self) -> int:
        """The most rows of the next step."""
        config = self._config
        if config.target_step_s is None:
            return config.step_budget_tokens
        least, most = 2 * config.verify_tokens, config.step_budget_tokens
        return self._times.budget_tokens(config.target_step_s, least, most)

    def retry_s(self, num_queued_tokens: int) -> float:
        """Seconds after which a refused device may come back."""
        return suggest_retry_s(num_queued_tokens, self.budget_tokens(), self._times)
