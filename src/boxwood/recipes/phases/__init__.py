"""The phases: each a frozen dataclass with one method, in a file of its own."""
