"""One self-contained page about everything in a store: what was gained, its cost, how certain it is."""
