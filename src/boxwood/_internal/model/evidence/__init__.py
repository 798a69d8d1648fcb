"""Evidence: what a criterion can use, and how it is gathered from a network and batches."""
