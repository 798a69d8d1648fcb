"""Modules that plug into other packages are collected where those packages are."""

from importlib.util import find_spec

NEEDED = {
    "lightning": "lightning",
    "transformers": "transformers",
    "calibration_text": "transformers",
    "outliers": "transformers",
    "pretrained": "transformers",
    "resident": "transformers",
}

collect_ignore = [
    f"src/boxwood/adapters/{module}.py"
    for module, package in NEEDED.items()
    if find_spec(package) is None
]
