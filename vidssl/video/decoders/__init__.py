"""Decoders, one file each; the file's name is the choice ``decoder: NAME``."""
