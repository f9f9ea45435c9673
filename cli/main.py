"""The application: one line a command. Nothing here may import torch."""

import typer

from . import _common, ava, bank, bench, weights
from .demo import demo
from .detect import detect
from .doctor import doctor
from .eval_ava import eval_ava
from .eval_kinetics import eval_kinetics
from .eval_tubes import eval_tubes
from .export import export
from .extract_features import extract_features
from .finetune import finetune
from .index import index
from .long_term import long_term
from .models import models
from .playground import playground
from .pretrain import pretrain
from .probe import probe
from .propose import propose
from .recipes import recipes
from .report import report
from .report_card import report_card
from .runs import runs
from .sample import sample
from .transcode import transcode

app = typer.Typer(
    name="vidssl",
    cls=_common.Program,
    help="Video self-supervised pretraining, long-term feature banks and action detection.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(doctor)
app.command()(demo)
app.command()(playground)
app.command()(index)
app.command()(transcode)
app.command()(sample)
app.command()(pretrain)
app.command()(finetune)
app.command()(propose)
app.command("extract-features")(extract_features)
app.command("long-term")(long_term)
app.command()(detect)
app.command("eval-ava")(eval_ava)
app.command("eval-kinetics")(eval_kinetics)
app.command("eval-tubes")(eval_tubes)
app.command()(probe)
app.command()(export)
app.command()(report)
app.command("report-card")(report_card)
app.command()(runs)
app.command()(models)
app.command()(recipes)
app.add_typer(ava.app, name="ava")
app.add_typer(bank.app, name="bank")
app.add_typer(weights.app, name="weights")
app.add_typer(bench.app, name="bench")
