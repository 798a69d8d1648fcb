"""Everything that may move at any time; what is public is in the modules next to this folder."""
