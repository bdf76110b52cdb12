"""From a decoded request to what the runtime is asked."""
