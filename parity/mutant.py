"""What a mutant is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One mistake: in `file` (relative to the backend's package), `old` becomes `new`.

    `of_verbs` is judged by cases of whole verbs, others by batches and stages.
    """

    name: str
    file: str
    old: str
    new: str
    of_verbs: bool = False
