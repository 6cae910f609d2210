"""Contrast of texts and marks, by WCAG 2.2: 4.5 for text (AA), 3 for marks of figures and borders of controls."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sftfilter.report import figures, heat, inspection

CSS = (Path(figures.__file__).parent / "page.css.j2").read_text()
VARIABLES = dict(re.findall(r"--(\w+): (#\w+)", CSS))
WHITE = "#ffffff"
TEXT, MARK = 4.5, 3.0


def _rgb(colour: str) -> tuple[float, float, float]:
    digits = colour.removeprefix("#")
    digits = "".join(d * 2 for d in digits) if len(digits) == 3 else digits
    red, green, blue = (int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4))
    return red, green, blue


def _light(rgb: tuple[float, float, float]) -> float:
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _ratio(one: str, other: str) -> float:
    dark, light = sorted((_light(_rgb(one)), _light(_rgb(other))))
    return (light + 0.05) / (dark + 0.05)


def _colour(value: str) -> str | None:
    if known := re.fullmatch(r"var\(--(\w+)\)", value):
        return VARIABLES[known[1]]
    return value if re.fullmatch(r"#\w{3}(\w{3})?", value) else None


def _rules() -> list[tuple[str, str, str]]:
    """Selector, text colour and ground of every rule that sets a colour; a rule without a ground stands on both grounds."""
    found = []
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", CSS):
        said = dict(re.findall(r"(?:^|[;\s])(color|background): ([^;]+?)\s*(?=;|$)", body.strip()))
        if ink := _colour(said.get("color", "")):
            own = _colour(said.get("background", ""))
            found += [
                (selector.strip(), ink, ground)
                for ground in ([own] if own else [VARIABLES["paper"], VARIABLES["wash"]])
            ]
    return found


def test_the_ratio_is_that_of_the_standard() -> None:
    assert _ratio("#000", "#fff") == pytest.approx(21)
    assert _ratio("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_texts_of_pages_stand_out() -> None:
    rules = _rules()
    selectors = " ".join(selector for selector, _, _ in rules)
    assert len(rules) > 30 and all(
        name in selectors for name in (".good", ".bad", ".unknown", "button:disabled", "caption")
    )
    assert {rule: round(_ratio(*rule[1:]), 2) for rule in rules if _ratio(*rule[1:]) < TEXT} == {}
    assert _ratio(VARIABLES["ink"], re.findall(r"mark \{ background: (#\w+)", CSS)[0]) >= TEXT
    for border in re.findall(r"border: 1px solid (#\w+)", CSS):
        assert _ratio(border, WHITE) >= MARK


def test_texts_and_marks_of_figures_stand_out() -> None:
    assert min(_ratio(ink, WHITE) for ink in (figures.INK, figures.QUIET)) >= TEXT
    assert {colour for colour in figures.PALETTE if _ratio(colour, WHITE) < MARK} == set()
    for share in range(11):
        low, high = (_rgb(shade) for shade in heat.SHADES)
        between = [round(255 * (a + (b - a) * share / 10)) for a, b in zip(low, high, strict=True)]
        assert _ratio(figures.INK, "#{:02x}{:02x}{:02x}".format(*between)) >= TEXT
    assert _ratio(figures.QUIET, heat.SHADES[0]) >= TEXT


@pytest.mark.parametrize("hue", [(0, 114, 178), (213, 94, 0)])
def test_texts_of_shaded_cells_stand_out(hue: tuple[int, int, int]) -> None:
    assert ", ".join(map(str, hue)) in CSS
    shade = max(inspection._shaded(value, False)["shade"] for value in (1.0, -1.0))
    ground = [round(255 + (colour - 255) * shade) for colour in hue]
    assert _ratio(VARIABLES["ink"], "#{:02x}{:02x}{:02x}".format(*ground)) >= TEXT
