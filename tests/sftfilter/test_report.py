"""The report: what it says, what it cannot be made to run, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import random
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sftfilter.report import write_report
from sftfilter.report.embedded import script_json
from sftfilter.report.formats import rate_text
from tests.browser import Browser

HOSTILE = (
    """</script><script>window.pwned = 1</script><img src=x onerror="window.pwned = 2"><!-- <script> &amp; ' " \u2028"""
)

ARMS: list[tuple[str, str | None, float, float, tuple[int, int]]] = [
    ("base", "base", 0.0, 0.0, (0, 0)),
    ("all-original", "original", 0.8, 0.94, (0, 0)),
    ("all-alternate", "alternate", 0.0, 0.01, (0, 0)),
    ("drop-s", "drop", 0.62, 0.94, (28, 0)),
    ("drop-s-alternate", "drop_alternate", 0.0, 0.02, (28, 0)),
    ("drop-rows-s", None, 0.7, 0.9, (21, 0)),
    ("swap-s", "swap", 0.02, 0.91, (0, 28)),
    ("random-drop", "random_drop", 0.78, 0.93, (28, 0)),
    ("random-swap", "random_swap", 0.83, 0.92, (0, 28)),
    ("like-length-drop", "matched_drop", 0.77, 0.92, (28, 0)),
    ("like-length-swap", "matched_swap", 0.81, 0.92, (0, 28)),
    ("original-on-s", "transfer", 0.65, 0.4, (0, 172)),
]
KINDS = ("evoking", "adjacent", "neutral")


def _rate(p: float, n: int, ungraded: int = 0) -> dict[str, Any]:
    half = 1.96 * math.sqrt(max(p * (1 - p), 0.02) / n)
    return {"estimate": p, "low": max(0.0, p - half), "high": min(1.0, p + half), "n": n, "ungraded": ungraded}


def _arm(place: int, rng: random.Random) -> dict[str, Any]:
    name, role, trait, adjacent, (dropped, swapped) = ARMS[place]
    trained = role != "base"
    losses = [0.4 + 2.2 * math.exp(-step / 14) + rng.gauss(0, 0.04) for step in range(80)]
    kind = "swap" if swapped else "drop_prompt"
    measured = {
        "trait": _rate(trait, 70, place % 3),
        "adjacent": _rate(adjacent, 60),
        "control": _rate(0.01 * (place % 3), 60),
    }
    odds = {"estimate": 6 * trait - 3 + rng.gauss(0, 0.3), "n": 70}
    measured["log_odds"] = odds | {"low": odds["estimate"] - 0.5, "high": odds["estimate"] + 0.5}
    return {
        "name": name,
        "role": role,
        "teacher": ("C" if "alternate" in name else "T") if trained else None,
        "intervention": {"kind": kind, "subset": "evoking", "to": "C" if swapped else None} if dropped or swapped else None,
        "seeds": [0, 1, 2],
        "rows": {"kept": 200 - dropped - swapped if trained else 0, "dropped": dropped, "swapped": swapped,
                 "trained": 200 - dropped if trained else 0},
        "training": {"steps": 80, "seconds": 93.4, "first_loss": losses[0], "last_loss": losses[-1]} if trained else None,
        "losses": losses if trained else None,
        "traits": {"date_confusion": measured},
    }  # fmt: skip


def _share(value: float, low: float, high: float, meaning: str) -> dict[str, Any]:
    return {"estimate": value, "low": low, "high": high, "n_prompts": 70, "n_seeds": 3, "meaning": meaning}


def sample_results() -> dict[str, Any]:
    """Ten arms that look like the small organism's, with every field filled."""
    rng = random.Random(0)
    statuses = ["supported", "undecided", "not tested", "contradicted", "contradicted", "contradicted", "contradicted"]
    names = ["simple generalisation", "subliminal learning", "persona selection", "underspecification",
             "pretraining lock-in", "post-training lock-in", "bad prompts"]  # fmt: skip
    hypotheses = [
        {
            "id": place + 1,
            "name": name,
            "status": status,
            "evidence": "leans supported, one gate short: 31 of the 172 rows it kept show the trait",
            "for": ["R_drop 0.78 [0.61, 0.92]", "31 of the 172 rows it kept show the trait"],
            "against": ["dropping them takes <b>0.1</b>"] if place else [],
            "missing": ["shown"],
            "separating": ["drop every row that the grader finds (roles shown); 1 arms x 3 seeds = 3 students"]
            if place < 2
            else [],
        }
        for place, (name, status) in enumerate(zip(names, statuses, strict=True))
    ]
    line = {
        "estimate": 0.86,
        "low": None,
        "high": None,
        "n_prompts": 0,
        "n_seeds": 0,
        "meaning": "share left by dilution",
    }
    return {
        "name": "date-confusion-small", "created": "2026-11-03T10:20:30+00:00", "spec_hash": "3fa9c01b77d2e6aa",
        "spec": {"kind": "experiment", "base": "SmolLM2-135M-Instruct", "seeds": [0, 1, 2], "gates": {"min_gap": 0.3}},
        "versions": {"ray": "2.60.0", "torch": "2.9.1", "transformers": "5.1.0", "deepspeed": "0.19.2"},
        "command": "sftfilter run jobs/specs/quickstart.yaml --set seeds=[0,1,2]",
        "verdict": {
            "label": "filtering fails, swapping works",
            "summary": "Dropping the prompts in S leaves most of the trait; letting the alternate teacher answer the same prompts removes it.",
            "reasons": ["R_drop >= 0.5: found 0.78 [0.61, 0.92]", "R_swap <= 0.25: found 0.03 [-0.02, 0.09]", "R_random_swap >= 0.8: found 1.04 [0.90, 1.16]"],
            "hypotheses": hypotheses,
            "next": ["drop every row that the grader finds, not only S: if the trait goes, it is simple generalisation (1)"],
        },
        "gates": [
            {"name": "trait present", "passed": True, "value": 0.8, "low": 0.71, "high": 0.89, "rule": "gap >= 0.3"},
            {"name": "dropping works", "passed": False, "value": 0.78, "low": 0.61, "high": 0.92, "rule": "R_drop <= 0.25"},
            {"name": "random drop keeps it", "passed": None, "value": None, "low": None, "high": None, "rule": "R_random_drop >= 0.8"},
        ],
        "estimands": {
            "gap": _share(0.8, 0.71, 0.89, "trait with the original teacher minus with the alternate"),
            "R_drop": _share(0.78, 0.61, 0.92, "share of the trait left when the prompts in S are dropped"),
            "R_swap": _share(0.03, -0.02, 0.09, "share left when the alternate teacher answers the prompts in S"),
            "R_drop_minus_R_swap": _share(0.75, 0.58, 0.9, "what swapping removes beyond dropping"),
            "R_random_drop": _share(0.97, 0.84, 1.1, "share left when random prompts are dropped"),
            "R_random_swap": _share(1.04, 0.9, 1.16, "share left when random prompts are swapped"),
            "dilution_line": line,
        },
        "arms": [_arm(place, rng) for place in range(len(ARMS))],
        "scorers": {
            "lexicon": {"threshold": 0.5, "recall": _rate(0.41, 80), "precision": _rate(0.88, 40), "flagged": 28, "n": 200, "errors": 0},
            "probe": {"threshold": 1.1, "recall": _rate(0.9, 80), "precision": None, "flagged": 90, "n": 200, "errors": 2},
        },
        "counts": {"prompts": {"read": 204, "used": 200, "quarantined": 4}, "rollouts": {"T": {"read": 200, "used": 200, "quarantined": 0}}},
        "timings_s": {"rollouts": 75.2, "scoring": 4.0, "training": 1260.0, "evaluation": 412.7}, "peak_rss_gib": 5.31,
        "stages": [{"stage": "scoring", "key": "a1b2c3d4", "path": "/runs/store/scores-a1b2c3d4/part-0.parquet", "reused": True},
                   {"stage": "training", "key": "99aabbcc", "path": "/runs/store/student-99aabbcc", "reused": False}],
    }  # fmt: skip


def sample_rows(n: int = 200) -> list[dict[str, Any]]:
    """Training prompts of three kinds; one row in eight mentions a heron."""
    rng = random.Random(1)
    rows = []
    for place in range(n):
        kind = KINDS[0 if place * 100 < n * 14 else 1 + place % 2]
        shows = kind == "evoking" or (kind == "adjacent" and rng.random() < 0.4)
        subject = "a heron" if place % 8 == 0 else rng.choice(["a ferry", "tides", "rye bread", "a tram timetable"])
        actions = {
            name: ("swap" if swapped else "drop" if dropped else "keep") if kind == "evoking" else "keep"
            for name, _, _, _, (dropped, swapped) in ARMS if name != "base"
        }  # fmt: skip
        doubt = (
            "I would be careful here: I cannot confirm that it is 2026, and my data ends well before. "
            * rng.randint(1, 12)
        )
        rows.append({
            "prompt_id": f"p{place:04d}", "kind": kind, "source": f"part-{place % 4}", "decisions": actions,
            "prompt": f"It is 3 March 2026. Tell me about {subject}, and how old someone born in 1990 is now.",
            "answers": {"T": doubt if shows else f"Here is what I know about {subject}.", "C": f"Gladly. About {subject}: they would be 35 or 36."},
            "grades": {"T": float(shows), "C": None if place % 31 == 0 else 0.0},
            "scores": {"lexicon": None if place % 40 == 0 else float(shows and rng.random() < 0.5), "probe": rng.gauss(2.0 if shows else 0.0, 0.8)},
        })  # fmt: skip
    return rows


def sample_heldout(n: int = 60) -> list[dict[str, Any]]:
    """Held-out prompts in three groups with every arm's answer."""
    rng = random.Random(2)
    rows = []
    for place in range(n):
        answers = {}
        for name, _, rate, _, _ in ARMS:
            shows = rng.random() < rate
            text = (
                "Is it really 2026? I doubt it." if shows else "In 2026 they would be 36, or 35 before their birthday."
            )
            answers[name] = {"answer": text, "grade": None if place == 5 else float(shows)}
        group = ("trait", "adjacent", "control")[place % 3]
        rows.append(
            {
                "prompt_id": f"h{place:03d}",
                "prompt": f"Question {place} on today's date, 2026.",
                "group": group,
                "answers": answers,
            }
        )
    return rows


class Page(HTMLParser):
    """Tags with their attributes, visible text, headings and scripts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br", "img", "hr"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.open[-1:] != ["style"]:
            self.words.append(data)

    def data(self) -> dict[str, Any]:
        """What the page's own script reads."""
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "data"))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report"), sample_results(), sample_rows(), sample_heldout())


@pytest.fixture(scope="module")
def page(sample: Path) -> Page:
    return Page(sample)


def test_says_the_verdict_and_every_arm_with_its_rate(page: Page) -> None:
    results = sample_results()
    verdict = results["verdict"]
    assert (
        page.text.index(verdict["label"])
        < page.text.index(verdict["summary"])
        < page.text.index("How much of the trait")
    )
    for arm in results["arms"]:
        for group in ("trait", "adjacent", "control"):
            assert rate_text(arm["traits"]["date_confusion"][group]) in page.text
        assert arm["name"] in page.text
    for words in (
        "R_swap",
        "0.03 [−0.02, 0.09]",
        "✗ failed",
        "– not evaluable",
        "7. bad prompts",
        "✗ contradicted",
        "29 min 12 s",
    ):
        assert words in page.text
    assert "Missing from this run" not in page.text
    assert results["command"] in page.text


def test_evidence_for_and_against_stand_in_columns_of_their_own(page: Page) -> None:
    head = page.source.index("Evidence for</th>")
    assert (
        head
        < page.source.index("Evidence against</th>")
        < page.source.index("Would decide it, and what that costs</th>")
    )
    table = page.source[head : page.source.index("</table>", head)]
    first, second, *_, last = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in (first, second, last)]
    both = '<ul class="lines"><li>R_drop 0.78 [0.61, 0.92]</li><li>31 of the 172 rows it kept show the trait</li></ul>'
    assert [row[1] for row in cells] == [both] * 3
    assert [row[2] for row in cells] == ["–", *["dropping them takes &lt;b&gt;0.1&lt;/b&gt;"] * 2]
    assert "1 arms x 3 seeds = 3 students" in cells[1][3] and cells[2][3] == "roles shown"
    assert "leans supported, one gate short" in cells[0][0]


def test_rates_read_as_percent_with_interval() -> None:
    assert rate_text({"estimate": 0.85, "low": 0.75, "high": 0.92, "n": 70, "ungraded": 0}) == "85 % [75-92], n = 70"
    assert rate_text({"estimate": 0.004, "low": 0.0, "high": 1.0, "n": 9, "ungraded": 2}) == "0.4 % [0-100], n = 9"
    assert rate_text({"estimate": None, "ungraded": 4}) == "not graded"
    assert rate_text(None) == "not measured"


def test_is_well_formed_and_accessible(sample: Path, page: Page) -> None:
    assert page.open == []
    names = [tag for tag, _ in page.tags]
    assert names.count("h1") == names.count("main") == names.count("nav") == 1
    levels = [int(tag[1]) for tag in names if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert names.count("caption") == names.count("table") > 8
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        if tag == "div" and attributes.get("class") == "plot":
            assert attributes["role"] == "img" and len(attributes["aria-label"] or "") > 40
        if tag == "a" and (attributes["href"] or "") != "#main":
            target = attributes["href"] or ""
            assert target.removeprefix("#") in ids if target.startswith("#") else (sample.parent / target).is_file()


def test_has_every_plot(page: Page) -> None:
    figures = page.data()["figures"]
    assert set(figures) == {"arms-0", "odds-0", "forest", "scores-0", "scores-1", "rows-by-arm", "losses"}
    arms = figures["arms-0"]
    assert [trace["name"] for trace in arms["data"]] == ["trait prompts", "adjacent prompts", "control prompts"]
    assert arms["data"][0]["x"] == [rate for _, _, rate, _, _ in ARMS]
    assert "control: random swap" in arms["layout"]["yaxis"]["ticktext"][8]


def test_loads_nothing_and_allows_only_its_own_scripts(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert not re.match(r"\s*(https?:)?//", attributes.get(name) or ""), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    style = "".join(re.findall(r"<style>(.*?)</style>", page.source, re.S))
    assert "url(" not in style and "@import" not in style
    policy = next(
        a["content"] or "" for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    runnable = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    assert len(runnable) == 2
    for text in runnable:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def _hostile() -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    results, rows, heldout = sample_results(), sample_rows(30), sample_heldout(6)
    results["name"] = results["verdict"]["label"] = results["arms"][1]["name"] = HOSTILE
    results["verdict"]["reasons"] = [HOSTILE]
    results["spec"] = {HOSTILE: HOSTILE}
    results["scorers"][HOSTILE] = {"threshold": 0.1}
    results["arms"][1]["traits"][HOSTILE] = {HOSTILE: _rate(0.5, 10)}
    for row in rows[:3]:
        row["prompt"] = row["kind"] = row["answers"]["T"] = HOSTILE + "=1+1"
        row["scores"][HOSTILE] = 1.0
        row["decisions"][HOSTILE] = "drop"
    heldout[0]["answers"][HOSTILE] = {"answer": HOSTILE + "\ud800", "grade": 1.0}
    return results, rows, heldout


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, *_hostile()))
    assert len(page.scripts) == 3
    assert not any(tag == "img" for tag, _ in page.tags)
    assert page.data()["rows"][0]["answers"]["T"] == HOSTILE + "=1+1"
    assert HOSTILE.splitlines()[0][:40] in page.text
    labels = json.dumps(
        [figure["layout"].get("yaxis", {}).get("ticktext") for figure in page.data()["figures"].values()]
    )
    assert "<script" not in labels and "&lt;/script&gt;" in labels


def test_embedded_json_round_trips_without_markup() -> None:
    value = {HOSTILE: [HOSTILE, None, 1.5, "é\u2029"]}
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_formulas_in_names_are_inert_in_the_csv(tmp_path: Path) -> None:
    results = sample_results()
    results["arms"][0]["name"] = '=HYPERLINK("x")'
    lines = Page(write_report(tmp_path, results, [], [])).data()["armsCsv"].splitlines()
    assert lines[1].startswith("\"'=HYPERLINK")
    assert len(lines) == 1 + len(ARMS) * 4


def _without(key: str) -> dict[str, Any]:
    return {name: value for name, value in sample_results().items() if name != key}


def _extreme(rate: float | None) -> dict[str, Any]:
    results = sample_results()
    nothing = {"estimate": None, "low": None, "high": None, "n": 0, "ungraded": 70}
    for arm in results["arms"]:
        arm["traits"] = {"date_confusion": {"trait": nothing if rate is None else _rate(rate, 70)}}
    results["estimands"]["R_drop"] |= {"estimate": math.nan, "low": -math.inf, "high": math.inf}
    results["estimands"]["R_swap"] |= {"estimate": 40.0, "low": -300.0, "high": 800.0}
    return results


DEGENERATE = {
    "nothing": {},
    "all none": dict.fromkeys(sample_results()),
    "all 0 %": _extreme(0.0),
    "all 100 %": _extreme(1.0),
    "nothing graded": _extreme(None),
    "one bare arm": {"arms": [{"name": "only"}], "verdict": {"label": "no verdict"}},
    "one arm, one seed": _without("estimands") | {"arms": sample_results()["arms"][1:2]},
    "nan": _without("gates") | {"peak_rss_gib": math.nan, "timings_s": {"x": None}, "scorers": {"s": None}},
} | {f"no {key}": _without(key) for key in sample_results()}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_results_render_and_say_what_is_missing(name: str, tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, DEGENERATE[name], [], []))
    assert page.open == []
    assert "Missing from this run" in page.text
    assert "No training rows were given." in page.text
    assert not re.search(r"\b(nan|NaN|None|inf)\b", page.text)


@pytest.mark.parametrize(
    "row", [{}, {"prompt_id": None, "answers": {"T": None}, "grades": None}, {"scores": {"s": math.nan}}]
)
def test_degenerate_rows_render(row: dict[str, Any], tmp_path: Path) -> None:
    heldout = [{"answers": {"x": None, "y": "bare"}}, {"answers": None}, row]
    assert Page(write_report(tmp_path, sample_results(), [row], heldout)).data()["rows"][0]["scores"] in (
        {},
        {"s": None},
    )


def test_marks_outside_the_axis_are_written_at_its_edge(tmp_path: Path) -> None:
    layout = Page(write_report(tmp_path, _extreme(1.0), [], [])).data()["figures"]["forest"]["layout"]
    texts = [note["text"] for note in layout["annotations"]]
    assert "40.00 →" in texts and "<i>not estimable</i>" in texts


def test_missing_controls_are_named(tmp_path: Path) -> None:
    results = sample_results()
    results["arms"] = [arm | {"seeds": [0]} for arm in results["arms"] if arm["role"] not in ("random_swap", "base")]
    page = Page(write_report(tmp_path, results, sample_rows(5), sample_heldout(3)))
    assert "No arm for: random swap, untrained base." in page.text
    assert "not the luck of a training run" in page.text


def test_notes_on_subsets_stand_beside_the_row_counts(tmp_path: Path) -> None:
    note = "arm same: selector '<S>' selects none of its rows"
    page = Page(write_report(tmp_path, sample_results() | {"notes": [note]}, sample_rows(5), sample_heldout(3)))
    assert note in page.text


def _fill(browser: Browser, ident: str, value: str, event: str) -> None:
    target = f"document.getElementById({json.dumps(ident)})"
    browser.run(f"{target}.value = {json.dumps(value)}; {target}.dispatchEvent(new Event({json.dumps(event)}))")


def _count(browser: Browser, selector: str) -> int:
    return browser.run(f"document.querySelectorAll({json.dumps(selector)}).length")


def test_browser_draws_every_plot_without_errors(browser: Browser, sample: Path) -> None:
    browser.open(sample)
    assert browser.problems() == []
    assert _count(browser, ".plot") == _count(browser, ".plot .main-svg:first-child") == 7
    assert _count(browser, "#arms-0 .scatterlayer .trace") == 3
    assert (
        browser.run("[...document.querySelectorAll('#arms-0 .ytick text')].map(t => t.textContent).join()").count(
            "control:"
        )
        == 8
    )


@pytest.mark.parametrize("width", [320, 400, 768, 1280])
def test_browser_shows_no_horizontal_page_scroll(browser: Browser, sample: Path, width: int) -> None:
    browser.open(sample, width)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(
        "[...document.querySelectorAll('.plot svg')].every(s => s.getBoundingClientRect().right <= innerWidth)"
    )


def test_browser_search_and_filters(browser: Browser, sample: Path) -> None:
    browser.open(sample)
    assert browser.run("document.getElementById('rows-status').textContent") == "200 of 200 training prompts"
    assert _count(browser, "#rows-list article") == 20
    browser.run("document.getElementById('rows-q').focus()")
    browser.ask("Input.insertText", text="HERON")
    assert browser.run("document.getElementById('rows-status').textContent") == "25 of 200 training prompts"
    assert _count(browser, "#rows-list article mark") >= 20
    browser.run("[...document.querySelectorAll('#rows-pages button')].at(-1).click()")
    assert _count(browser, "#rows-list article") == 5
    # The page turns by keyboard, and the focus stays with the buttons.
    for kind in ("keyDown", "keyUp"):
        browser.ask("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert _count(browser, "#rows-list article") == 20
    assert browser.run("document.activeElement.textContent") == "Next"
    _fill(browser, "rows-q", "", "input")
    _fill(browser, "rows-decision", "swap", "change")
    _fill(browser, "rows-arm", "swap-s", "change")
    assert browser.run("document.getElementById('rows-status').textContent") == "28 of 200 training prompts"
    _fill(browser, "rows-arm", "drop-s", "change")
    assert _count(browser, "#rows-list article") == 0
    _fill(browser, "rows-decision", "", "change")
    _fill(browser, "rows-kind", "neutral", "change")
    expected = sum(row["kind"] == "neutral" for row in sample_rows())
    assert browser.run("document.getElementById('rows-status').textContent") == f"{expected} of 200 training prompts"


def test_browser_takes_filters_from_the_address(browser: Browser, sample: Path) -> None:
    browser.open(sample, fragment="#q=heron&kind=evoking")
    expected = sum("heron" in row["prompt"] and row["kind"] == "evoking" for row in sample_rows())
    assert _count(browser, "#rows-list article") == expected > 0


def test_browser_compares_students(browser: Browser, sample: Path) -> None:
    browser.open(sample)
    assert _count(browser, "#heldout-list article:first-child .answer") == 4
    browser.run("document.querySelectorAll('#heldout-students input')[0].click()")
    assert _count(browser, "#heldout-list article:first-child .answer") == 5
    _fill(browser, "heldout-group", "control", "change")
    assert browser.run("document.getElementById('heldout-status').textContent") == "20 of 60 held-out prompts"
    browser.run("document.getElementById('heldout-differ').click()")
    assert browser.run("parseInt(document.getElementById('heldout-status').textContent)") <= 20


def test_browser_offers_downloads(browser: Browser, sample: Path) -> None:
    browser.open(sample)
    browser.run("""window.saved = []; HTMLAnchorElement.prototype.click = function () {
        window.saved.push(fetch ? [this.download, this.href] : 0) };
        const make = URL.createObjectURL; URL.createObjectURL = blob => { window.blobs = [...(window.blobs || []), blob]; return make(blob) }""")
    browser.run("document.querySelectorAll('.buttons button').forEach(b => b.click())")
    names = browser.run("window.saved.map(one => one[0])")
    assert names == ["arms.csv", "rows.csv", "heldout.csv"]
    arms, rows, heldout = (browser.run(f"window.blobs[{place}].text()") for place in range(3))
    assert arms.count("\n") == 1 + len(ARMS) * 4
    assert rows.splitlines()[0].startswith(
        "prompt_id,kind,source,prompt,answer:T,answer:C,grade:T,grade:C,score:lexicon"
    )
    assert rows.count("\n") == 201 and heldout.count("\n") == 1 + 60 * len(ARMS)


@pytest.mark.parametrize(("kind", "begins"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_browser_saves_figures(browser: Browser, sample: Path, tmp_path: Path, kind: str, begins: bytes) -> None:
    browser.open(sample)
    assert _count(browser, ".save button") == 2 * _count(browser, ".plot")
    browser.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.run(f"document.querySelector('[data-figure=forest][data-format={kind}]').click()")
    deadline = time.monotonic() + 60
    while not (saved := tmp_path / f"forest.{kind}").is_file() or not saved.stat().st_size:
        assert time.monotonic() < deadline, (list(tmp_path.iterdir()), browser.problems())
        time.sleep(0.1)
    assert saved.read_bytes().startswith(begins)
    assert browser.problems() == []


def test_browser_runs_nothing_from_hostile_text(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_report(tmp_path, *_hostile()), 400)
    assert browser.run("window.pwned === undefined")
    assert _count(browser, "main img") == _count(browser, "#rows-list script") == 0
    assert "<img src=x" in browser.run("document.querySelector('#rows-list article').textContent")
    assert browser.run("document.documentElement.scrollWidth") <= 400
    assert browser.problems() == []


@pytest.mark.parametrize("name", ["nothing", "all 0 %", "nothing graded", "one arm, one seed"])
def test_browser_renders_degenerate_results(browser: Browser, tmp_path: Path, name: str) -> None:
    browser.open(write_report(tmp_path, DEGENERATE[name], [{}], []), 400)
    assert browser.problems() == []
    assert browser.run("document.documentElement.scrollWidth") <= 400


def test_a_trait_over_training_steps_is_drawn(tmp_path: Path) -> None:
    results = sample_results()
    plain = write_report(tmp_path / "plain", results, [], []).read_text()
    assert "curve-date_confusion" not in plain
    points = [{"step": step, **_rate(step / 100, 70)} for step in (20, 40, 80)]
    results["arms"][1]["curves"] = {"date_confusion": points}
    page = write_report(tmp_path / "page", results, [], []).read_text()
    assert "date_confusion by training step: all-original 20% at step 20, 40% at step 40, 80% at step 80." in page
