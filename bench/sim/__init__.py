"""Devices, links and clouds under virtual time, deciding with the production code."""
