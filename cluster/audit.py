"""Known vulnerabilities of the pinned set, told apart from nobody having been asked: `python -m cluster.audit`.

pip-audit says "no known vulnerabilities" as well when its service could not be reached for any package.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parent / "constraints.txt"


def audited(pins: Sequence[str]) -> tuple[list[str], set[str]]:
    """(a line for each vulnerable package, names of the packages that the service knew) of requirements like `ray==2.60.0`."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(pins) + "\n")
        listed.flush()
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--disable-pip",
            "--no-deps",
            "--timeout",
            "10",
            "--format",
            "json",
        ]
        done = subprocess.run(  # noqa: S603 (our own interpreter and arguments)
            [*command, "--progress-spinner", "off", "-r", listed.name], capture_output=True, text=True, check=False
        )
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        return [], set()  # it ended with a connection error
    known = [one for one in found if "skip_reason" not in one]
    return [_line(one) for one in known if one["vulns"]], {canonicalize_name(one["name"]) for one in known}


def _line(one: dict[str, Any]) -> str:
    vulns = [f"{v['id']} (fixed in {', '.join(v['fix_versions']) or 'no version yet'})" for v in one["vulns"]]
    return f"{one['name']} {one['version']}: {'; '.join(vulns)}"


def main() -> None:
    """Exit with 1 on a known vulnerability, or with --required where nobody could be asked, be it for a single package."""
    parser = argparse.ArgumentParser(prog="python -m cluster.audit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--required", action="store_true", help="fail where no advisory service can be reached")
    required = parser.parse_args().required
    pins = [line.split("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines()]
    pins = [pin for pin in pins if pin]
    if not audited(pins[:1])[1] or not (found := audited(pins))[1]:
        print("dependencies: no advisory service can be reached, so none is audited")
        sys.exit(int(required))
    vulnerable, known = found
    for line in vulnerable:
        print(line)
    missed = [pin for pin in pins if canonicalize_name(Requirement(pin).name) not in known]
    print(
        f"dependencies: {len(pins) - len(missed)} of {len(pins)} audited, {len(vulnerable)} with known vulnerabilities"
    )
    if missed:
        print(f"not audited, since the service said nothing of them: {', '.join(missed)}")
    sys.exit(bool(vulnerable) or bool(missed and required))


if __name__ == "__main__":
    main()
