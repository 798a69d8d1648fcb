"""Functions from tensors to tensors, and frozen specifications. Imports no other layer of Boxwood."""
