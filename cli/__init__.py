"""The ``vidssl`` command: Typer commands without logic."""
