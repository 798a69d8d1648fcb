"""Int8: ranges from calibration data, weights of bytes, the program with both, and the choice."""
