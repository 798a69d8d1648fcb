"""What Boxwood writes to disk: tensors, masks and codes as bytes, nothing executable."""
