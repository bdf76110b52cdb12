"""What a caller of the workloads can do something about."""


class WorkloadError(ValueError):
    """No such workload, or not with these numbers; the message says what is there."""
