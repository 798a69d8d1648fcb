"""Evidence: what a criterion may ask for, and how it is gathered from a network and batches."""
