"""Modules that plug into other packages are collected where those packages are; one thread a process.

Networks of tests are tiny: a second thread only waits for the first, and on a busy machine for long.
"""

import os
from importlib.util import find_spec

# Before torch is imported; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NEEDED = {
    "folders": "transformers",
    "lightning": "lightning",
    "transformers": "transformers",
    "calibration_text": "transformers",
    "configuration_search": "transformers",
    "configurations": "transformers",
    "outliers": "transformers",
    "perplexity": "transformers",
    "pretrained": "transformers",
    "resident": "transformers",
    "shrunken": "transformers",
}

collect_ignore = [
    f"src/boxwood/_internal/adapters/{module}.py"
    for module, package in NEEDED.items()
    if find_spec(package) is None
]

# Programs that tests start, and a device that importing it registers with torch for good.
collect_ignore_glob = ["tests/*/*_at_work.py", "tests/model/pretend_device.py"]
