"""What every page is made of: one file with its data, its scripts and the policy under which a browser runs only these."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sftfilter.report.embedded import script_json
from sftfilter.report.figures import Plot

_HERE = Path(__file__).parent


def write_page(
    target: Path,
    template: str,
    script: str,
    view: Mapping[str, Any],
    data: Mapping[str, Any],
    plots: Iterable[Plot | None],
) -> Path:
    """Write one self-contained page; it loads nothing, wherever it is opened.

    Args:
        template, script: file names in this folder.
        view: what the template shows; every value is escaped, whatever the template's file name ends in.
        data: what the script reads.
        plots: figures that the script draws.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    parts = {**view, **_scripts(script, data, plots), "css": (_HERE / "page.css.j2").read_text(encoding="utf-8")}
    page = environment.get_template(template).render(parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Models can emit half a surrogate pair, which UTF-8 cannot hold.
    target.write_bytes(page.encode("utf-8", "replace"))
    return target


def _scripts(script: str, data: Mapping[str, Any], plots: Iterable[Plot | None]) -> dict[str, Any]:
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    figures = {plot.ident: plot.figure for plot in plots if plot}
    whole = "\n".join(
        [
            "(() => {",
            *((_HERE / name).read_text(encoding="utf-8") for name in ("parts.js.j2", script, "end.js.j2")),
            "})();",
        ]
    )
    plotly = get_plotlyjs() if figures else ""
    return {
        "data": Markup(script_json({**data, "figures": figures})),  # noqa: S704 - leaves no character that HTML reads
        "script": Markup(whole),  # noqa: S704 - our own files
        "plotly": Markup(plotly),  # noqa: S704 - the installed package's own file
        "policy": f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"script-src {_allowed(whole)} {_allowed(plotly)}",
    }


def _allowed(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
