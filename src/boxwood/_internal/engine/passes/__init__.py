"""Rewrites of a program, one file each: a program in, an equal program out."""
