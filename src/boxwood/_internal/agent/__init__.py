"""The filter agent: it tries removals, gets rewards, and learns which filters can be removed."""
