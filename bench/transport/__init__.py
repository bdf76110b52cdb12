"""What TCP does with a device's messages on a shaped link: first chunks, losses, shared links."""
