"""Data-Juicer in Ray mode: FOLDER CPUS WORDS.

WORDS are separated by commas: its filter by flagged words, which knows single words and no expressions. Without any, its
filter by length, the cheapest it has. Run by the peers' own Python. The time is that of its own processing and export;
starting Ray, and reading the schema, are left out.
"""

import json
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    folder, cpus, words = sys.argv[1:]
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import pyarrow.parquet as pq
    import ray

    with tempfile.TemporaryDirectory(prefix="dj-", dir="/tmp") as work:
        ray.init(num_cpus=int(cpus), _temp_dir=work, log_to_driver=False, include_dashboard=False)
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        from data_juicer.config import init_configs
        from data_juicer.core.executor.ray_executor import RayExecutor

        length = {"text_length_filter": {"min_len": 10, "max_len": 100000}}
        flagged = {"flagged_words_filter": {"lang": "en", "max_ratio": 0.0, "flagged_words_dir": f"{work}/words"}}
        (Path(work) / "words").mkdir()
        (Path(work) / "words" / "flagged_words.json").write_text(json.dumps({"en": words.split(",")}))
        recipe = Path(work) / "recipe.yaml"
        recipe.write_text(
            json.dumps(
                {
                    "project_name": "bench",
                    "executor_type": "ray",
                    "ray_address": os.environ["RAY_ADDRESS"],
                    "dataset_path": folder,
                    "text_keys": "completion",
                    "export_path": f"{work}/out/kept.jsonl",
                    "work_dir": f"{work}/out",
                    "open_tracer": False,
                    "process": [flagged if words else length],
                }
            )
        )
        rows = sum(pq.read_metadata(file).num_rows for file in Path(folder).glob("*.parquet"))
        executor = RayExecutor(init_configs(["--config", str(recipe)]))
        began = time.monotonic()
        kept = executor.run()
        seconds = time.monotonic() - began
        print(json.dumps({"rows": rows, "seconds": seconds, "kept": kept.data.count()}))
        ray.shutdown()
