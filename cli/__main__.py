"""``python -m``, for torchrun."""

from .main import app

app()
