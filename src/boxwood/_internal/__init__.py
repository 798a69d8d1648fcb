"""The implementation, which may change at any time. The public names are in the modules of the parent folder."""
