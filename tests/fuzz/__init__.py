"""What others may send, made of bytes: harnesses that a coverage-guided fuzzer drives, or chance.

Each target is a function of bytes that raises when something does not hold. `python -m tests.fuzz`
runs them; the gate runs a bounded part of it.
"""
