"""Generations run over engine and link: admission, places, one driver each, outages."""
