"""The application: one line a command. Nothing here may import torch."""

import typer

from .index import index
from .models import models
from .pretrain import pretrain

app = typer.Typer(
    name="vidssl",
    help="Video self-supervised pretraining, long-term feature banks and action detection.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(index)
app.command()(pretrain)
app.command()(models)
