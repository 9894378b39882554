"""Fonts for the characters of a text in plots."""

import unicodedata

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

BUNDLED = "DejaVu Sans Mono", "DejaVu Sans"  # included in Matplotlib


def code_points(path):
    """Return the code points that a font can draw; none if Matplotlib cannot use it."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return set()
    return set(font.get_charmap()) if font.scalable else set()


def font_families(text):
    """Return a list of font families that cover the text, and the characters that none has.

    The fonts of Matplotlib come first, then as few installed ones as possible.
    """
    missing, families = {ord(character) for character in text}, list(BUNDLED)
    for family in BUNDLED:
        missing -= code_points(font_manager.findfont(family))
    installed = {}
    if missing:
        paths = sorted(font_manager.findSystemFonts())
        installed = {path: code_points(path) & missing for path in paths}
    while any(covered := [points & missing for points in installed.values()]):
        sizes = {path: (len(points), "Regular" in path) for path, points in zip(installed, covered)}
        best = max(sizes, key=sizes.__getitem__)
        font_manager.fontManager.addfont(best)
        families.append(FT2Font(best).family_name)
        missing -= installed[best]
    return families, "".join(map(chr, sorted(missing)))


def packages_for(characters):
    """Return the names of Debian font packages that cover these characters."""
    packages = set()
    for character in characters:
        name = unicodedata.name(character, "")
        if name.startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL")):
            packages.add("fonts-noto-cjk")
        elif unicodedata.category(character) == "So":
            packages.add("fonts-symbola")
        else:
            packages.add("fonts-noto-core")
    return " ".join(sorted(packages))
