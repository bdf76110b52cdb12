"""`hat verify`: the split model against the unsplit one, on the user's own machine."""
