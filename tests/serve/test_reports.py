"""All runs behind one link: for whoever has its token, and nothing but their pages."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import httpx
import pytest

from serve.reports import host_reports
from serve.settings import ServingSettings
from tests.browser import Browser

TOKEN = "a-token-for-reports"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs with pages, one without, and what must not be shown."""
    for name, created, label in (("old & <b>", "2026-01-02T03:04:05", "dilution only"), ("new", "2026-02-03", "x")):
        (tmp_path / name / "report").mkdir(parents=True)
        (tmp_path / name / "report" / "index.html").write_text(f"<title>{created}</title><p>page</p>")
        (tmp_path / name / "results.json").write_text(
            json.dumps({"kind": "experiment", "created": created, "verdict": {"label": label}, "spec_hash": "abc"})
        )
    (tmp_path / "new" / "report" / "rows.parquet").write_bytes(b"PAR1")
    (tmp_path / "running").mkdir()
    (tmp_path / ".hidden" / "report").mkdir(parents=True)
    (tmp_path / ".hidden" / "report" / "index.html").write_text("hidden")
    (tmp_path / "endpoint.token").write_text("secret")
    return tmp_path


@pytest.mark.ray
def test_runs_are_listed_and_shown_to_whoever_has_the_token(cluster: None, runs: Path, browser: Browser) -> None:
    with host_reports(runs, ServingSettings(port=0), TOKEN) as link:
        home = link.partition("open?")[0]
        with httpx.Client(follow_redirects=True) as client:
            assert client.get(home).status_code == 401
            assert client.get(f"{home}open?token=wrong").status_code == 401
            index = client.get(link)
            assert (index.status_code, str(index.url)) == (200, home), "the token does not stay in the address"
            (cookie,) = [h for r in index.history for h in r.headers.get_list("set-cookie")]
            assert "httponly" in cookie.lower() and "samesite=strict" in cookie.lower()
            rows = re.findall(r'<a href="([^"]+)">', index.text)
            assert rows == ["new/", "old%20%26%20%3Cb%3E/"], "the newest first"
            assert "dilution only" in index.text and "old &amp; &lt;b&gt;" in index.text
            assert "2026-01-02" in client.get(home + rows[1]).text
            table = client.get(home + "new/rows.parquet")
            assert table.content == b"PAR1" and "rows.parquet" in table.headers["content-disposition"]
            assert httpx.get(home + "new/rows.parquet").status_code == 401
            for path in (
                "running/",
                "running/rows.parquet",
                "new/heldout.parquet",
                "new/..%2F..%2Fendpoint.token",
                ".hidden/",
                "..%2Fendpoint.token/",
                "%2e%2e/",
                "endpoint.token",
                "new/results.json",
            ):
                assert client.get(home + path).status_code == 404, path
        browser.ask("Page.navigate", url=link)
        deadline = time.monotonic() + 30
        while browser.run("document.querySelectorAll('tbody tr').length") != 2:
            assert time.monotonic() < deadline, browser.run("document.body.innerText")
            time.sleep(0.1)
        assert browser.run("document.cookie") == "", "scripts cannot read it"
        assert browser.run("location.search") == ""
