"""datatrove's local executor with a regular expression: FOLDER EXPRESSION WORKERS. It writes no rows, only its log.

Run by the peers' own Python.
"""

import json
import sys
import tempfile
import time

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import RegexFilter
from datatrove.pipeline.readers import ParquetReader

if __name__ == "__main__":
    folder, expression, workers = sys.argv[1:]
    reader = ParquetReader(folder, text_key="completion", id_key="rollout_id", read_metadata=False, batch_size=4096)
    with tempfile.TemporaryDirectory() as logs:
        steps = [reader, RegexFilter(expression)]
        executor = LocalPipelineExecutor(steps, tasks=int(workers), workers=int(workers), logging_dir=logs)
        began = time.monotonic()
        stats = executor.run()
        seconds = time.monotonic() - began
    rows = int(stats.stats[1].stats["total"].total)
    print(json.dumps({"rows": rows, "seconds": seconds}))
