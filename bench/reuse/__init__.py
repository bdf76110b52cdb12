"""What it saves to send of a conversation only what is new, over an emulated link."""
