"""Charts as Vega-Lite specifications: one source for the page, for papers and for the studies."""
