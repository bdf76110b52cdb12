"""`hat status`: how both sides are, from what they say of themselves."""
