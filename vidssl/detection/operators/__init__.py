"""detection/operators."""
