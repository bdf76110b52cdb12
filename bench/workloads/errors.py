"""What a caller of the workloads can do something about."""

from process.errors import ConfigError


class WorkloadError(ConfigError):
    """No such workload, or not with these numbers; the message says what is there."""
