"""Networks of the papers, with the papers' parameter counts."""
