"""Bundled recipes: one self-contained YAML file each, read by name through ``vidssl recipes``."""
