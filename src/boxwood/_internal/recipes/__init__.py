"""Recipes: tuples of frozen phases, and the functions that return them."""
