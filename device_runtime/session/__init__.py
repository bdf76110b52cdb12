"""One generation as a pure state machine: what to compute, send, draft and keep."""
