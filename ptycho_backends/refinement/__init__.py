"""Refinement of a whole scan: its plan, its passes, its checkpoints; the same for every backend."""
