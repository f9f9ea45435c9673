"""Weights that others published: read without running them, renamed, and matched to a backbone."""
