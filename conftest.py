"""Modules that plug into other packages are collected where those packages are."""

from importlib.util import find_spec

collect_ignore = [
    f"src/boxwood/adapters/{package}.py"
    for package in ("lightning", "transformers")
    if find_spec(package) is None
]
