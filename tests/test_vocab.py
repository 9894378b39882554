import pytest

from baregpt import Vocab


def test_encoding_and_decoding_are_inverse():
    text = "The rain,\nthe Räin: ☂ e\u0301 🎭!"
    vocab = Vocab.from_text(text)
    assert vocab.decode(vocab.encode(text)) == text
    assert len(vocab) == len(set(text))
    assert list(vocab.characters) == sorted(set(text))


def test_an_unknown_character_is_named_with_its_place():
    with pytest.raises(
        ValueError, match=r"character 'z' at position 1 is not in the vocabulary, which is 'ab'"
    ):
        Vocab("ab").encode("azby")


@pytest.mark.parametrize("characters", ["", "aba"])
def test_an_impossible_vocabulary_is_refused(characters):
    with pytest.raises(ValueError, match="at least one character, and each only once"):
        Vocab(characters)
