"""The cloud's decisions without clock or socket: connections, sessions, queues, steps."""
