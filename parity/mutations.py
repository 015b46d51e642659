"""Single mistakes that a programmer could make in a backend, as edits of its source.

Each replaces a text that occurs exactly once in its file; `mutants.py` makes them one at a time. Those of whole verbs
are one list for both backends (`verb_mutations`); what is planted around a backend is
`ptycho_backends.testing.faults.FAULTS`.
"""

from tensorflow_mutations import TENSORFLOW
from torch_mutations import TORCH
from verb_mutations import of_backend

PACKAGES = {"torch": "ptycho_torch/backend", "tensorflow": "ptycho_backends/tensorflow"}
MUTANTS = {"torch": TORCH + of_backend("torch"), "tensorflow": TENSORFLOW + of_backend("tensorflow")}
