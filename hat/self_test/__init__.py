"""`hat cloud --self-test`: whether an installation computes what it should, and how fast.

`random_bundle` makes what is checked, `streams` says what must come out, `checks` compares,
`step_times` measures, `report` writes the line to send in, and `run` goes through all of it.
"""
