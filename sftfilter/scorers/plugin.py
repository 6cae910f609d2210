"""A scorer of the user's own: a class or a function in a module that the job can import.

Trust: a plugin runs with all the rights of whoever runs the job, here and on every node, so a spec that names one is
to be trusted like the code itself.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, JsonValue

from sftfilter.config import did_you_mean, file_hash
from sftfilter.errors import DataError, SpecError
from sftfilter.scorers.contract import Scored, ScorerSettings

if TYPE_CHECKING:
    import pyarrow as pa


class Plugin(ScorerSettings):
    """Your own Python: `package.module:Name`, from the folder that the job runs in or an installed package.

    A class is made once on each worker as `Name(**options)` and has `score(batch)`, which gets a pyarrow table with
    `rollout_id` and `columns`, and answers a number for each row. A function is called as `Name(texts, **options)`
    with the completions that there are. None or NaN means that a row has no score; a row on which the code raises has
    none either, and the error says why. The fingerprint follows the module's source, that of the modules beside it which
    it imports, and in a package all that lies beside or below it; what else they read is `revision`'s to follow.
    """

    kind: Literal["plugin"]
    target: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="package.module:Name")]
    options: dict[str, JsonValue] = Field(default={}, description="keyword arguments for the class or function")
    columns: list[str] = Field(
        default=["completion"], min_length=1, description="columns of the rollouts table that a class gets"
    )
    holds_model: bool = Field(
        default=False, description="as scorers with a model: one actor a GPU, or one on all cores"
    )
    revision: Annotated[str, Field(description="change it when the code's behaviour changed but not its source")] = ""

    @property
    def needs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Columns that are read."""
        return tuple(self.columns)

    @property
    def heavy(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether an actor gets a GPU or all cores."""
        return self.holds_model

    def inputs(self) -> Sequence[str]:
        """Hashes of the module's source and of the modules beside it that it may import.

        Raises:
            SpecError: the module cannot be found.
        """
        name = self.target.partition(":")[0]
        source = Path(_find(name))
        packaged = "." in name or source.name == "__init__.py"
        files = set(source.parent.rglob("*.py")) if packaged else _with_imports(source)
        return [f"{file.relative_to(source.parent)}={file_hash(file)}" for file in sorted(files)]

    def load(self, folder: Path, device: str) -> PluginScorer:  # noqa: ARG002
        """The scorer, on the worker."""
        return PluginScorer(self.target, self.options)


class PluginScorer:
    """Calls the plugin, and holds it to one number a row."""

    def __init__(self, target: str, options: dict[str, Any]) -> None:
        self.target = target
        self.options = options
        code = _load(target)
        self.instance: Any = None
        self.function: Callable[..., Any] | None = None
        if not inspect.isclass(code):
            self.function = code
            return
        try:
            self.instance = code(**options)
        except Exception as error:
            raise SpecError(f"plugin {target}: {code.__name__}(**options) failed: {_said(error)}") from error
        if not callable(getattr(self.instance, "score", None)):
            raise SpecError(f"plugin {target}: the class has no method `score(self, batch)`")

    def score(self, batch: pa.Table) -> Scored:
        """What the plugin gives; nulls are worded here."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.function is None:
            return self._checked(self.instance.score(batch), batch.num_rows)
        texts = batch["completion"].combine_chunks()
        present = pc.is_valid(texts)  # pyright: ignore[reportAttributeAccessIssue]
        known = self._checked(
            self.function(texts.drop_null().to_pylist(), **self.options), len(texts) - texts.null_count
        )
        place = pc.if_else(present, pc.subtract(pc.cumulative_sum(present.cast(pa.int64())), 1), None)  # pyright: ignore[reportAttributeAccessIssue]
        return Scored(_whole(known.score).take(place), _whole(known.error).take(place))

    def _checked(self, answer: Any, rows: int) -> Scored:
        import pyarrow as pa
        import pyarrow.compute as pc

        if isinstance(answer, Scored):
            return answer
        if not isinstance(answer, pa.Array | pa.ChunkedArray):
            if not hasattr(answer, "__len__") or isinstance(answer, str | bytes | dict):
                raise DataError(
                    f"plugin {self.target} returned {type(answer).__name__} for {rows} rows; it must return a list or "
                    "an array with a number (or None) for each"
                )
            answer = pa.array(answer if getattr(answer, "ndim", 1) == 1 else answer.ravel())
        if len(answer) != rows:
            raise DataError(
                f"plugin {self.target} returned {len(answer)} scores for {rows} rows; it must return one for each, in "
                "their order, and None where there is none"
            )
        score = answer.cast(pa.float64())
        missing = pc.if_else(pc.is_null(score), f"plugin {self.target} gave None", None)  # pyright: ignore[reportAttributeAccessIssue]
        return Scored(score, missing.cast(pa.string()))


def _with_imports(source: Path) -> set[Path]:
    """A module's file, and those in its folder that it imports, directly or through each other."""
    found, pending = set[Path](), [source]
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found.add(file)
        for name in _imported(file):
            module, package = source.parent / f"{name}.py", source.parent / name
            pending += [module] if module.is_file() else package.rglob("*.py") if package.is_dir() else []
    return found


def _imported(file: Path) -> set[str]:
    """First parts of the names that a file imports; none where it cannot be parsed, which loading it will say."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def _whole(column: Any) -> Any:
    import pyarrow as pa

    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _find(module: str) -> str:
    """File of a module; the folder that the job runs in is searched last, whatever started this process."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    except Exception as error:  # a package's own code runs
        raise SpecError(f"plugin module '{module}': a package above it failed to import: {_said(error)}") from error
    if found is None or not found.origin or not Path(found.origin).is_file():
        raise SpecError(
            f"no plugin module '{module}' in {here} or among the installed packages: start the job in the folder that "
            f"holds {module.split('.', maxsplit=1)[0]} (on a cluster that folder is what `submit --working-dir` uploads), or "
            "install the package on every node"
        )
    return found.origin


def _load(target: str) -> Any:
    name, _, attribute = target.partition(":")
    file = _find(name)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise SpecError(f"plugin module '{name}' ({file}) failed to import: {_said(error)}") from error
    code = getattr(module, attribute, None)
    if not callable(code):
        own = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise SpecError(f"plugin {target}: {file} has no class or function '{attribute}'{did_you_mean(attribute, own)}")
    return code


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
