"""Workloads, live runs over a shaped link, simulator, reports."""
