"""What both programs need as processes on a network: a guarded way in, and warnings at start."""
