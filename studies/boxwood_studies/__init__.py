"""What the studies of `experiments/` need and users of Boxwood do not: their data and networks.

An editable install of the repository sees this package; the wheel does not have it.
"""
