"""What every long-running program here does alike: logs, warnings at its start, signals."""
