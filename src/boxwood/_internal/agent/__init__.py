"""The filter agent: tries removals, is rewarded, learns which filters can go."""
