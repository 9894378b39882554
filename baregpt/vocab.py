"""The vocabulary: characters <-> ids."""

import numpy as np


class Vocab:
    """The characters that a model knows. The id of a character is its index in `characters`.

    Raises ValueError if `characters` is empty or repeats a character.
    """

    def __init__(self, characters):
        self.characters = characters
        self._ids = {character: i for i, character in enumerate(characters)}
        if not characters or len(self._ids) != len(characters):
            raise ValueError("a vocabulary must have at least one character and no duplicates")

    @classmethod
    def from_text(cls, text):
        """Return the vocabulary of all characters in `text`, in code point order."""
        return cls("".join(sorted(set(text))))

    def __len__(self):
        return len(self.characters)

    def encode(self, text):
        """Return the ids of a text, (len(text),); ValueError for an unknown character."""
        try:
            return np.fromiter(map(self._ids.__getitem__, text), np.int64, len(text))
        except KeyError as error:
            at = f"at position {text.index(error.args[0])}"
            raise ValueError(f"character {error} {at} is not in the vocabulary") from None

    def decode(self, ids):
        """Return the text of a sequence of ids."""
        return "".join(self.characters[i] for i in ids)
