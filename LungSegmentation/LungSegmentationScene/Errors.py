"""What can go wrong with the scene, in a user's words."""

from __future__ import annotations


class SceneError(RuntimeError):
    """Something that a user can understand and mend.

    Parameters
    ----------
    sentence
        What happened.
    hint
        The cure; may be empty.
    """

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(f"{sentence} {hint}".strip())
        self.sentence = sentence
        self.hint = hint
