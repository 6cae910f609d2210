"""Benchmarks: peers side by side, in one run, on the same rows. `make bench [AREA=scoring]`."""

import os
import secrets

# Ray reads these once, when it is first imported.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
