from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from serve.settings import ServingSettings


def test_settings_import_neither_ray_nor_torch() -> None:
    code = "import sys, serve.settings; print([m for m in ('ray', 'torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_more_replicas_at_least_than_at_most_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"max_replicas \(1\) is below min_replicas \(2\)"):
        ServingSettings(min_replicas=2)


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ValidationError, match="did you mean 'max_batch'"):
        ServingSettings.model_validate({"max_batches": 3})
