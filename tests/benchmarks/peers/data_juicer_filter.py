"""Data-Juicer in Ray mode with its filter by length, the cheapest it has: FOLDER CPUS.

Run by the peers' own Python. The time is that of its own processing and export; starting Ray, and reading the schema,
are left out.
"""

import json
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    folder, cpus = sys.argv[1:]
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    with tempfile.TemporaryDirectory(prefix="dj-", dir="/tmp") as work:
        ray.init(num_cpus=int(cpus), _temp_dir=work, log_to_driver=False, include_dashboard=False)
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        from data_juicer.config import init_configs
        from data_juicer.core.executor.ray_executor import RayExecutor

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
                    "process": [{"text_length_filter": {"min_len": 10, "max_len": 100000}}],
                }
            )
        )
        executor = RayExecutor(init_configs(["--config", str(recipe)]))
        began = time.monotonic()
        kept = executor.run()
        seconds = time.monotonic() - began
        print(json.dumps({"rows": kept.data.count(), "seconds": seconds}))
        ray.shutdown()
