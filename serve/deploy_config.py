"""An endpoint as a config file for `serve deploy`: the same application, without this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.settings import EndpointConfig

IMPORT_PATH = "serve.deployments:build"


def deploy_config(config: EndpointConfig, env: Mapping[str, str]) -> dict[str, Any]:
    """What `serve deploy FILE` takes, as plain values. Holds digests of the tokens, never the tokens.

    Args:
        env: environment of the replicas.
    """
    settings = config.settings
    return {
        "proxy_location": "HeadOnly",
        "http_options": {
            "host": settings.host,
            "port": settings.port or 8123,
            "request_timeout_s": settings.request_timeout_s + 30,
        },
        "logging_config": {"enable_access_log": False, "log_level": "ERROR"},
        "applications": [
            {
                "name": config.name,
                "route_prefix": f"/{config.name}",
                "import_path": IMPORT_PATH,
                "runtime_env": {"env_vars": dict(env)},
                "args": config.model_dump(mode="json"),
            }
        ],
    }
