"""Whether the connected cluster grows by itself."""

from __future__ import annotations


def grows() -> bool:
    """Whether an autoscaler adds nodes to the connected cluster; most do not say how far.

    Ray's own autoscaler reports no limits, and neither does KubeRay's; see `cluster.autoscaling` for one that does.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    return is_autoscaler_v2(fetch_from_server=True)
