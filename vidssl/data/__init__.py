"""Datasets and the loader: what is read when, the same on any number of workers and ranks."""
