"""Modules whose packages are missing are left out with a reason; one thread a process.

Networks of tests are tiny: a second thread only waits for the first, and on a busy machine for long.
"""

import os
import sys
from collections.abc import Generator
from typing import Any

import pytest

# Before torch is imported; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Programs that tests start, and a device that importing it registers with torch for good.
collect_ignore_glob = [
    "tests/*/*_at_work.py",
    "tests/model/devices_in_*.py",
    "tests/model/pretend_device.py",
    "tests/model/public_functions.py",
    "tests/model/run_devices.py",
    "tests/model/synchronisations.py",
]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Skip a module that needs an extra which is not installed, and say which."""
    report = yield
    error = report.call.excinfo and report.call.excinfo.value
    while error is not None and type(error).__name__ != "MissingDependency":
        error = error.__cause__
    if error is not None:
        # Pytest leaves what it could not import half made, for the next one to find.
        for name, module in list(sys.modules.items()):
            if getattr(module, "__file__", None) == str(collector.path):
                del sys.modules[name]
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 1, f"Skipped: {error}")
    return report
