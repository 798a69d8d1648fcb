"""Adapters for other trainers and libraries, such as Lightning and transformers."""
