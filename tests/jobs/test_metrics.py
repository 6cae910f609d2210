"""What a run tells Prometheus, the dashboard that asks for it, and what it writes into its log."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.run_cost import Hours
from jobs.run_metrics import GAUGES
from jobs.spec import load_spec
from jobs.status import local_status, status_lines
from sftfilter.run_log import FOLDER
from tests.conftest import REPOSITORY

DASHBOARD = json.loads((REPOSITORY / "cluster" / "grafana.json").read_text())
_SELECTOR = re.compile(r"\b(ray_\w+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


def _queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_every_metric_and_no_other() -> None:
    asked = {name for query in _queries() for name, _ in _SELECTOR.findall(query)}
    assert asked == {f"ray_{name}" for name in GAUGES}
    for query in _queries():
        grouped = re.findall(r"(?:by|on) \(([^)]*)\)", query)
        known = {"run", *(label for name, _ in _SELECTOR.findall(query) for label in GAUGES[name[4:]][1])}
        assert {label for group in grouped for label in group.split(", ")} <= known, query
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["run"]["query"] == "label_values(ray_sftfilter_run_stage, run)"


def test_hours_count_nodes_that_can_work() -> None:
    hours = Hours()
    head, node = {"Alive": True, "Resources": {"memory": 1.0}}, {"Alive": True, "Resources": {"CPU": 4.0}}
    hours.add([head, node, node, {"Alive": False, "Resources": {"CPU": 4.0}}], 1800)
    hours.add([head], 1800)
    assert hours.told(None) == {"core_hours": 4.0, "worker_hours": 1.0, "cost": None}
    assert hours.told(2.5)["cost"] == 2.5


@pytest.mark.ray
@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_run_exports_what_the_dashboard_asks_for(
    local_ray: None, tiny_spec: Callable[..., Path], tmp_path: Path
) -> None:
    import ray

    from jobs.run import run_spec

    folder = tmp_path / "runs"
    # The real model, since answers of a random one are none that a grade, and so a rate, could come from.
    arms = {"base": {}, "all-T": {"teacher": "T"}, "all-C": {"teacher": "C"}}
    roles = {"original": "all-T", "alternate": "all-C", "base": "base"}
    spec = load_spec(tiny_spec(arms=arms, roles=roles, worker_hour_price=2.0, capability=None))
    run_spec(spec, "sftfilter run spec.yaml")
    samples = _scraped(ray.nodes()[0]["MetricsExportPort"])
    for query in _queries():
        for name, matchers in _SELECTOR.findall(query):
            found = [labels for labels, _ in samples.get(name, []) if _match(labels, matchers)]
            assert found, f"{query}: nothing among {sorted(n for n in samples if 'sftfilter' in n)}"
            assert all({"run", *GAUGES[name[4:]][1]} <= labels.keys() for labels in found)
    value = {name: max(value for _, value in found) for name, found in samples.items()}
    assert value["ray_sftfilter_run_students_done"] == 2 and value["ray_sftfilter_run_answers"] == 3 * 6
    rows = {labels["stage"]: value for labels, value in samples["ray_sftfilter_run_rows_done"]}
    assert rows == {"rollouts": 24, "scores": 12}
    assert {v for labels, v in samples["ray_sftfilter_run_stage"] if labels["stage"] == "training"} == {0}

    status = local_status(folder, "tiny")
    told = status.hours
    assert told["cost"] == pytest.approx(2 * (told["worker_hours"] or 0), abs=1e-3) and (told["core_hours"] or 0) > 0
    assert any(line.startswith("cost so far: ") and "core-hours" in line for line in status_lines(status))
    assert any(line.startswith("cost so far: 0.00 (") for line in status_lines(status, price=0.0))

    lines = [
        json.loads(line) for file in (folder / "tiny" / FOLDER).iterdir() for line in file.read_text().splitlines()
    ]
    assert all(
        {"time", "level", "run", "name", "role", "stage", "arm", "host", "pid", "message"} <= line.keys()
        for line in lines
    )
    assert len({line["run"] for line in lines}) == 1 and {"driver", "trainer", "scorer"} <= {
        line["role"] for line in lines
    }
    trained = [line for line in lines if line["role"] == "trainer" and line["message"] == "done"]
    assert {line["arm"] for line in trained} == {"all-T-s0", "all-C-s0"}
    assert all(line["stage"] == "training" and line["loss"] > 0 for line in trained)


def _scraped(port: int) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Metric -> labels and values, once the agent has the run's last word, which comes with the next report."""
    deadline = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        finished = {labels["stage"] for labels, _ in found.get("ray_sftfilter_run_stage_seconds", [])}
        if "outcome" in finished or time.monotonic() > deadline:
            return found
        time.sleep(1)


def _match(labels: dict[str, str], matchers: str) -> bool:
    """As Prometheus would, with the dashboard's variable at `All`."""
    tests: dict[str, Callable[[str, str], Any]] = {
        "=": str.__eq__,
        "!=": str.__ne__,
        "=~": lambda value, wanted: re.fullmatch(wanted, value),
        "!~": lambda value, wanted: not re.fullmatch(wanted, value),
    }
    wanted = [(key, test, text.replace("$run", ".*")) for key, test, text in _MATCHER.findall(matchers)]
    return all(tests[test](labels.get(key, ""), text) for key, test, text in wanted)
