"""Teachers: losses, ensembles, their answers kept on disk, and specialists."""
