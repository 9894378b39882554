"""The fonts of plots cover the characters of any text, if a font that has them is installed."""

import os
import subprocess
import sys

from conftest import ROOT
from fontTools.fontBuilder import FontBuilder

from pipeline.common.fonts import BUNDLED, font_families, packages_for

UNUSED = "\ue123"  # for private use: no font has it


def write_font(path, character):
    """Write a font that has only this character, a square."""
    builder = FontBuilder(1000, isTTF=False)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square"})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "square": (500, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    from fontTools.pens.t2CharStringPen import T2CharStringPen

    glyphs = {}
    for name in (".notdef", "square"):
        pen = T2CharStringPen(500, None)
        pen.moveTo((0, 0))
        for point in ((400, 0), (400, 400), (0, 400)):
            pen.lineTo(point)
        pen.closePath()
        glyphs[name] = pen.getCharString()
    builder.setupCFF("Square-Regular", {}, glyphs, {})
    builder.save(path)


def test_the_fonts_of_matplotlib_cover_latin_and_hebrew():
    assert font_families("To be, é — שלום ↵␣") == ([*BUNDLED], "")


def test_an_installed_font_is_found_and_used(tmp_path):
    assert font_families(f"a{UNUSED}") == ([*BUNDLED], UNUSED)
    (tmp_path / "fonts").mkdir()
    write_font(tmp_path / "fonts/square.otf", UNUSED)
    program = f"""
import matplotlib.figure, warnings
from pipeline.common.fonts import font_families
families, missing = font_families("a{UNUSED}")
print(*families[2:], repr(missing))
warnings.simplefilter("error")  # a missing glyph
figure = matplotlib.figure.Figure()
figure.text(0.5, 0.5, "a{UNUSED}", fontfamily=families)
figure.canvas.draw()
"""
    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path)}
    options = {"cwd": ROOT, "env": environment, "text": True}
    assert subprocess.check_output([sys.executable, "-c", program], **options) == "Square ''\n"


def test_it_names_debian_packages():
    assert packages_for("万かな한") == "fonts-noto-cjk"
    assert packages_for("万🎭ह") == "fonts-noto-cjk fonts-noto-core fonts-symbola"
