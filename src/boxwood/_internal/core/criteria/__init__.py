"""One file for each kind of evidence; `boxwood.criteria` lists the criteria."""
