"""Characters <-> ids."""

import numpy as np


class Vocab:
    """The characters that a model knows; a character's id is its place in the string
    `characters`.
    """

    def __init__(self, characters):
        self.characters = characters
        self._ids = {character: i for i, character in enumerate(characters)}
        if not characters or len(self._ids) != len(characters):
            raise ValueError("a vocabulary must hold at least one character, and each only once")

    @classmethod
    def from_text(cls, text):
        """The vocabulary of every character that occurs in `text`, in code point order; ValueError
        if none does.
        """
        return cls("".join(sorted(set(text))))

    def __len__(self):
        return len(self.characters)

    def encode(self, text):
        """Text -> ids (len(text),); ValueError for a character that is not in the vocabulary,
        naming it.
        """
        try:
            return np.fromiter(map(self._ids.__getitem__, text), np.int64, len(text))
        except KeyError as error:
            where = f"{error} at position {text.index(error.args[0])}"
            known = f"the vocabulary, which is {self.characters!r}"
            raise ValueError(f"character {where} is not in {known}") from None

    def decode(self, ids):
        """Ids -> text."""
        return "".join(self.characters[i] for i in ids)
