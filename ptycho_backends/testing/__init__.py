"""Proof that a backend is right: generated cases, laws, the conformance kit and the parity report.

Only the command line imports this package. `cases`, `agreement` and `parity`
need NumPy only; `strategies` needs Hypothesis, `contract` pytest.
"""
