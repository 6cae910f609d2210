"""What `sftfilter eval` says on the command line, as a spec of kind eval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.kinds.eval import Eval
from jobs.spec import load_spec, override
from sftfilter.config import did_you_mean
from sftfilter.errors import SpecError
from sftfilter.traits import TRAITS


def eval_spec(
    run: str,
    traits: Sequence[str],
    models: Sequence[str],
    *,
    base_url: str | None = None,
    api_key_env: str | None = None,
    judge: tuple[str | None, str | None, str | None] = (None, None, None),
    samples: int | None = None,
    max_tokens: int | None = None,
    overrides: Sequence[str] = (),
) -> Eval:
    """The spec in a YAML file, or one for a finished run's folder or an endpoint.

    Args:
        run: a spec of kind eval; or the folder of a finished run; or, with `base_url`, the folder to write to.
        judge: base URL, model and key variable of the judge of traits that take one.

    Raises:
        SpecError: what is wrong with it.
    """
    if run.endswith((".yaml", ".yml")):
        spec = load_spec(run, overrides)
        if not isinstance(spec, Eval):
            raise SpecError(
                f"{run}: kind: this needs a spec of kind eval or the folder of a run; the spec's is {spec.kind}"
            )
        return spec
    folder = Path(run).resolve()
    data: dict[str, Any] = {
        "kind": "eval",
        "name": folder.name if base_url else f"{folder.name}-eval",
        "results": str(folder.parent),
        "run_folder": None if base_url else str(folder),
        "base_url": base_url,
        "api_key_env": api_key_env,
        "models": list(models),
        "traits": {name: _trait(name, judge, samples, max_tokens) for name in traits or ["date_confusion"]},
    }
    for change in overrides:
        override(data, change)
    try:
        return Eval.model_validate(data)
    except ValidationError as error:
        said = [
            f"{'.'.join(map(str, e['loc'])) or 'eval'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise SpecError("\n".join(said)) from error


def _trait(
    name: str, judge: tuple[str | None, str | None, str | None], samples: int | None, max_tokens: int | None
) -> dict[str, Any]:
    if name not in TRAITS:
        raise SpecError(f"--trait {name}: no such trait{did_you_mean(name, TRAITS)}; there are: {', '.join(TRAITS)}")
    data: dict[str, Any] = {"kind": name}
    data |= {key: value for key, value in (("samples", samples), ("max_tokens", max_tokens)) if value is not None}
    url, model, key = judge
    if url and TRAITS[name].judged:
        if not model:
            raise SpecError("--judge-url needs --judge-model: the model to ask the judge's endpoint for")
        data["judge"] = {"kind": "endpoint", "endpoint": {"base_url": url, "model": model, "api_key_env": key}}
    return data
