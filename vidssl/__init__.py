"""Video self-supervised pretraining, long-term feature banks and action detection."""

__version__ = "0.1.0"
