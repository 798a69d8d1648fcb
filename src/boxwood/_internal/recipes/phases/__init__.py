"""One file for each phase; `boxwood.phases` lists them."""
