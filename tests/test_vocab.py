import pytest

from baregpt import Vocab


def test_decode_inverts_encode():
    text = "The rain,\nthe Räin: ☂ e\u0301 🎭!"
    vocab = Vocab.from_text(text)
    assert vocab.decode(vocab.encode(text)) == text
    assert len(vocab) == len(set(text))
    assert list(vocab.characters) == sorted(set(text))


def test_an_unknown_character_is_named_with_its_position():
    message = "character 'z' at position 1 is not in the vocabulary"
    with pytest.raises(ValueError, match=message):
        Vocab("ab").encode("azby")


@pytest.mark.parametrize("characters", ["", "aba"])
def test_an_empty_or_repetitive_vocabulary_is_refused(characters):
    with pytest.raises(ValueError, match="at least one character and no duplicates"):
        Vocab(characters)
