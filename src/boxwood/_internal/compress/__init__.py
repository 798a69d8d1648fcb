"""Compress a trained network within an accuracy limit, into a folder with a smaller, faster one."""
