"""The attention explorer in a real browser."""

import numpy as np
import pytest

from baregpt import GPT, Config, Vocab
from baregpt.layers import softmax
from pipeline.plot_attention import write_explorer

HOSTILE = "</script><img src=x onerror=alert(1)>\n{{ data }} &amp; 🎭"


def model_of(text, **config):
    vocab = Vocab.from_text(text)
    config = {"block_size": 64, "d_model": 16, "n_heads": 2, "n_layers": 3} | config
    return GPT(Config(len(vocab), **config), seed=1), vocab


def explore(path, text, **config):
    """The page for a text, and what it should show: weights (L, H, T, T), probabilities (T, V),
    vocabulary.
    """
    model, vocab = model_of(text, **config)
    ids = vocab.encode(text)[None]
    weights = [of_layer[0] for of_layer in model.attention(ids)]
    probabilities = softmax(model.logits(ids)[0])
    write_explorer(path, text, weights, probabilities, vocab.characters, len(weights) - 1)
    return np.array(weights), probabilities, vocab


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens the page for a text; in the end the page must have asked for nothing
    and complained of nothing.
    """
    contexts, troubles = [], []

    def open_page(text, **options):
        shown = explore(tmp_path / "attention.html", text)
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on(
            "console", lambda message: message.type == "error" and troubles.append(message.text)
        )
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or troubles.append(request.url)
            ),
        )
        page.goto((tmp_path / "attention.html").as_uri())
        return page, *shown

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def shade(span):
    """How strongly a character is shaded: 0 to 1, the square root of its weight times 0.85."""
    colour = span.evaluate("e => getComputedStyle(e).backgroundColor")
    parts = colour[colour.index("(") + 1 : -1].split(",")
    return float(parts[3]) if len(parts) == 4 else 1.0


def test_pointing_at_a_character_shades_what_each_head_looks_at(opened):
    page, weights, probabilities, vocab = opened("To be, or\nnot to be")
    page.locator("#text span").nth(12).hover()
    for number, panel in enumerate(page.locator(".head").all()):
        layer, head = divmod(number, 2)
        shades = [shade(span) for span in panel.locator(".text span").all()]
        expected = 0.85 * np.sqrt(np.append(weights[layer, head, 12, :13], np.zeros(6)))
        assert shades == pytest.approx(expected, abs=0.06)
    best = vocab.characters[probabilities[12].argmax()]
    signs = {" ": "␣", "\n": "↵"}
    assert page.locator("#candidates kbd").first.inner_text() == signs.get(best, best)
    assert "character 13 of 19" in page.locator("#says").inner_text()


def test_everything_is_within_reach_of_the_keyboard(opened):
    page, *_ = opened("To be, or\nnot to be")
    page.keyboard.press("Tab")
    for key, where in (
        ("Home", 1),
        ("ArrowRight", 2),
        ("ArrowRight", 3),
        ("ArrowLeft", 2),
        ("End", 19),
    ):
        page.keyboard.press(key)
        assert page.locator("#text").get_attribute("aria-valuenow") == str(where)
    page.keyboard.press("Tab")
    checked = page.locator(".head[aria-checked=true] b")
    assert checked.inner_text() == "Layer 3, head 1"
    for key, where in (
        ("ArrowRight", "3, head 2"),
        ("ArrowUp", "2, head 2"),
        ("ArrowDown", "3, head 2"),
    ):
        page.keyboard.press(key)
        assert checked.inner_text() == page.locator("#which").inner_text() == f"Layer {where}"
        assert page.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"


def test_the_heat_map_follows_the_head_and_the_pointer(opened):
    page, weights, *_ = opened("To be, or\nnot to be")
    page.locator(".head").nth(1).click()
    pixel = """([i, j]) => { const c = document.getElementById("map"), s = c.width / 19;
        return c.getContext("2d").getImageData((j + .5) * s, (i + .5) * s, 1, 1).data[3] / 255 }"""
    for i, j in ((5, 2), (10, 10), (17, 0), (3, 9)):
        assert page.evaluate(pixel, [i, j]) == pytest.approx(np.sqrt(weights[0, 1, i, j]), abs=0.05)
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] * 7.5 / 19)
    assert page.locator("#text").get_attribute("aria-valuenow") == "8"


def test_a_tap_on_a_phone(opened):
    page, *_ = opened(
        "To be, or\nnot to be " * 3, viewport={"width": 390, "height": 800}, has_touch=True
    )
    page.locator("#text span").nth(4).tap()
    assert page.locator("#text").get_attribute("aria-valuenow") == "5"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(opened, scheme):
    page, *_ = opened("To be, or\nnot to be", color_scheme=scheme)
    colours = page.evaluate(
        "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])"
    )
    page_light, ink_light = (sum(map(int, c[4:-1].split(","))) / 765 for c in colours)
    assert (
        (page_light > 0.9 and ink_light < 0.2)
        if scheme == "light"
        else (page_light < 0.2 and ink_light > 0.8)
    )


def test_any_text_is_shown_as_text(opened):
    page, *_ = opened(HOSTILE)
    characters = "e => [...e.children].map(s => s.lastChild.data).join('')"
    assert page.locator("#text").evaluate(characters) == HOSTILE
    assert page.locator("img").count() == 0


def test_a_large_model_and_a_long_text_stay_below_two_megabytes(tmp_path):
    explore(
        tmp_path / "a.html",
        "To be, or not " * 18,
        block_size=256,
        n_layers=6,
        n_heads=6,
        d_model=48,
    )
    assert (tmp_path / "a.html").stat().st_size < 2_000_000
