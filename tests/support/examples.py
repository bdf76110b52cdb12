"""How many examples of a property are tried."""

from hypothesis import settings


def at_most(number: int) -> int:
    """A property's own number of examples, or fewer where the profile is in a hurry."""
    is_quick = settings.get_current_profile_name() == "quick"
    return min(number, settings.get_profile("quick").max_examples) if is_quick else number
