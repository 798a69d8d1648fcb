"""Structure: what may be removed from a network, how, and the proof that it was right."""
