"""Wait until a cluster that was told of by RAY_ADDRESS has so many nodes: `python -m cluster.wait_for_nodes 4`."""

from __future__ import annotations

import argparse
import logging
import sys
import time

_PATIENCE_S = 900.0


def main() -> None:
    """Exit with 4 where they have not come within a quarter of an hour."""
    parser = argparse.ArgumentParser(prog="python -m cluster.wait_for_nodes", description=(__doc__ or "").strip())
    parser.add_argument("nodes", type=int, help="alive, the head among them")
    parser.add_argument("--patience-s", type=float, default=_PATIENCE_S, help="seconds to wait for them")
    given = parser.parse_args()

    import ray

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    deadline = time.monotonic() + given.patience_s
    while (alive := sum(node["Alive"] for node in ray.nodes())) < given.nodes:
        if time.monotonic() > deadline:
            print(f"error: {alive} of {given.nodes} nodes have joined: see the log of the others", file=sys.stderr)
            sys.exit(4)
        time.sleep(1)


if __name__ == "__main__":
    main()
