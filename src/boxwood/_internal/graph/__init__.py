"""Structure: what may be removed from a network, how, and the check that it was right."""
