"""The WebSocket to the cloud: dialing, frames out and in, and what is known of the way."""
