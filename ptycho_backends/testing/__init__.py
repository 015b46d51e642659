"""What proves a backend right: generated cases, laws, the conformance kit and the parity report.

Nothing else in `ptycho_backends` imports this package. `cases`, `agreement` and `parity`
need NumPy only; `strategies` needs Hypothesis, `contract` pytest.
"""
