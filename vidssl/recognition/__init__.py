"""Action recognition: what a whole clip shows, from one list of classes."""
