"""Where other trainers plug in; each adapter only puts a `SparseTraining` in the right place."""
