"""Recipes: what is wrong with one is told at once, exactly, and before anything is done."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from vidssl.errors import RecipeError
from vidssl.recipe import (
    Detection,
    Extract,
    LongTerm,
    Pretrain,
    RecipeFile,
    Recognition,
    bundled,
    dump,
    find,
    find_any,
    load,
    load_any,
)

Refused = Callable[..., str]
KINDS: tuple[type[RecipeFile], ...] = (Pretrain, Detection, Recognition, Extract, LongTerm)
BUNDLED = [(kind, name) for kind in KINDS for name in bundled(kind)]
PRETRAIN = """\
task: pretrain
backbone: {name: slow, width: 8, depths: [1, 1, 1, 1], frames: 4, stride: 4}
method: {name: moco, queue: 8, hidden: 16, dim: 8, key_groups: 1}
augment: {crop_px: 32}
optim: {lr: 0.01, batch: 2, steps: 2}
"""


@pytest.fixture
def pretrain(refused: Refused, tmp_path: Path, playground: Path) -> Refused:
    """Pretrain with a recipe of the given text, which must be refused."""

    def run(text: str, *more: object) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        videos = ("--videos", playground / "videos")
        return refused("pretrain", "mine.yaml", *videos, "--out", "run", *more)

    return run


# --- the bundled recipes


def test_every_bundled_recipe_is_found_under_its_kind() -> None:
    lying = {path.relative_to(path.parents[1]) for path in _root().rglob("*.yaml")}
    assert len(lying) >= 4
    assert lying == {Path(kind.folder) / f"{name}.yaml" for kind, name in BUNDLED}


def test_no_two_recipes_of_one_command_share_a_name() -> None:
    assert not bundled(Detection).keys() & bundled(Recognition).keys()


def test_a_recipe_of_several_kinds_is_found_and_loaded_by_its_task(tmp_path: Path) -> None:
    kinds = (Detection, Recognition)
    for kind, name in ((Detection, "small"), (Recognition, "recognition_small")):
        assert find_any(kinds, name) == find(kind, name)
        assert type(load_any(kinds, find_any(kinds, name))) is kind
    with pytest.raises(RecipeError, match=r"no detection or recognition recipe 'smal'; did you"):
        find_any(kinds, "smal")
    with pytest.raises(RecipeError, match=r"none.yaml: no such recipe file"):
        find_any(kinds, str(tmp_path / "none.yaml"))
    wrong = find(Pretrain, "moco_small")
    with pytest.raises(RecipeError, match="a pretrain recipe; expected a detection or a recogn"):
        load_any(kinds, wrong)


@pytest.mark.parametrize(("kind", "name"), BUNDLED)
def test_a_bundled_recipe_loads_and_its_dump_loads_to_the_same(
    kind: type[RecipeFile], name: str, tmp_path: Path
) -> None:
    recipe = load(kind, find(kind, name))
    (tmp_path / "again.yaml").write_text(dump(recipe))
    assert load(kind, tmp_path / "again.yaml") == recipe


def test_a_recipe_says_its_version_and_one_without_is_the_first(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(PRETRAIN)
    recipe = load(Pretrain, path)
    assert dump(recipe).startswith("version: 1\n")
    assert "version" not in recipe.model_dump()  # it is no part of what is trained
    path.write_text("version: 1\n" + PRETRAIN)
    assert load(Pretrain, path) == recipe


def test_a_recipe_of_a_newer_version_is_refused_by_that_alone(pretrain: Refused) -> None:
    told = pretrain("version: 2\nunheard_of: true\n" + PRETRAIN)
    assert "mine.yaml: version 2 was written by a newer vidssl; this one reads recipes of" in told
    assert "unheard_of" not in told
    assert 'version: should be 1, found "new"' in pretrain("version: new\n" + PRETRAIN)
    assert "version: should be 1, found 0" in pretrain("version: 0\n" + PRETRAIN)


@pytest.mark.parametrize(("kind", "name"), BUNDLED)
def test_a_bundled_recipe_begins_with_its_command_and_what_to_expect(
    kind: type[RecipeFile], name: str
) -> None:
    commands = {Pretrain: "pretrain", Extract: "extract-features", LongTerm: "long-term"}
    command = commands.get(kind, "finetune")
    first, second, *_ = find(kind, name).read_text(encoding="utf-8").splitlines()
    assert first.startswith(f"# vidssl {command} {name} --")
    assert second.startswith("# ")
    assert len(second) > 30


def _root() -> Path:
    return Path(str(files("vidssl_recipes")))


# --- keys


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optm: {lr: 1}", "optm: unknown key; did you mean 'optim'?"),
        ("sed: 1", "sed: unknown key; did you mean 'seed'?"),
        ("xyzzy: 1", "xyzzy: unknown key\n"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(
    pretrain: Refused, line: str, message: str
) -> None:
    told = pretrain(f"{PRETRAIN}{line}\n")
    assert "mine.yaml is not a valid pretrain recipe:" in told
    assert message in told


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("width: 8", "widht: 8", "backbone.widht: unknown key; did you mean 'width'?"),
        ("queue: 8", "queu: 8", "method.queu: unknown key; did you mean 'queue'?"),
        ("crop_px: 32", "crop: 32", "augment.crop: unknown key; did you mean 'crop_px'?"),
        ("steps: 2", "step: 2", "optim.step: unknown key; did you mean 'steps'?"),
    ],
)
def test_an_unknown_nested_key_is_answered_with_its_section(
    pretrain: Refused, right: str, wrong: str, message: str
) -> None:
    assert message in pretrain(PRETRAIN.replace(right, wrong))


def test_an_unknown_key_of_an_operator_or_its_window_is_answered_with_the_nearest(
    refused: Refused, tiny: dict[str, Path], training_data: list[object]
) -> None:
    told = refused(
        *("finetune", tiny["detection_bank"], "--encoder", "random", *training_data),
        *("--out", "run", "--set", "head.operator.layer=2"),
        *("--set", "head.operator.window.befor_s=2", "--set", "head.dropuot=0.1"),
    )
    assert "head.operator.layer: unknown key; did you mean 'layers'?" in told
    assert "head.operator.window.befor_s: unknown key; did you mean 'before_s'?" in told
    assert "head.dropuot: unknown key; did you mean 'dropout'?" in told


def test_a_repeated_key_is_told_with_both_its_places(pretrain: Refused) -> None:
    told = pretrain(f"{PRETRAIN}seed: 1\noptim: {{lr: 1}}\n")
    assert "mine.yaml:7:1: key 'optim' stands twice (first on line 5)" in told


def test_a_repeated_nested_key_is_told_with_line_and_column(pretrain: Refused) -> None:
    told = pretrain(PRETRAIN.replace("steps: 2", "lr: 0.1"))
    assert "mine.yaml:5:29: key 'lr' stands twice (first on line 5)" in told


def test_a_missing_key_and_section_are_named(pretrain: Refused) -> None:
    told = pretrain("task: pretrain\noptim: {batch: 2, steps: 2}\n")
    for line in ("backbone: missing", "method: missing", "optim.lr: missing"):
        assert line in told


def test_a_missing_task_is_named(pretrain: Refused) -> None:
    assert "task: missing" in pretrain(PRETRAIN.replace("task: pretrain\n", ""))


# --- values


def test_every_value_out_of_range_is_told_with_what_was_found(pretrain: Refused) -> None:
    text = PRETRAIN.replace("lr: 0.01", "lr: -1, warmup: 2").replace("queue: 8", "queue: 0")
    told = pretrain(f"{text}seed: -3\nprecision: fp64\n")
    for line in (
        "optim.lr: should be greater than 0, found -1",
        "optim.warmup: should be less than 1, found 2",
        "method.queue: should be greater than 0, found 0",
        "seed: should be greater than or equal to 0, found -3",
        "precision: should be 'auto', 'fp32', 'bf16' or 'fp16', found \"fp64\"",
    ):
        assert line in told


def test_a_value_of_the_wrong_type_is_told_with_what_was_found(pretrain: Refused) -> None:
    told = pretrain(PRETRAIN.replace("batch: 2", "batch: two"))
    assert "optim.batch: should be a valid integer" in told
    assert 'found "two"' in told


@pytest.mark.parametrize("value", ["nan", ".nan", "-inf", "-.inf"])
def test_a_number_that_is_none_is_refused(pretrain: Refused, value: str) -> None:
    assert "optim.lr:" in pretrain(PRETRAIN.replace("lr: 0.01", f"lr: {value}"))


def test_a_section_that_is_no_mapping_is_refused(pretrain: Refused) -> None:
    told = pretrain(
        PRETRAIN.replace("{name: moco, queue: 8, hidden: 16, dim: 8, key_groups: 1}", "moco")
    )
    assert "method: " in told
    assert "moco" in told


def test_steps_and_epochs_together_are_refused(pretrain: Refused) -> None:
    told = pretrain(PRETRAIN.replace("steps: 2", "steps: 2, epochs: 3"))
    assert "optim: give the length of the training as steps or as epochs, not both" in told


def test_neither_steps_nor_epochs_is_refused(pretrain: Refused) -> None:
    told = pretrain(PRETRAIN.replace(", steps: 2", ""))
    assert "optim: give the length of the training as steps or as epochs" in told


def test_a_range_from_high_to_low_is_refused(pretrain: Refused) -> None:
    told = pretrain(PRETRAIN.replace("crop_px: 32", "crop_px: 32, area: [0.9, 0.1]"))
    assert "augment: area must go from low to high, found 0.9 to 0.1" in told


@pytest.mark.parametrize("augment", ["difference: 0.1", "views: [{difference: 1.0}]"])
def test_changes_of_changes_are_refused(pretrain: Refused, augment: str) -> None:
    text = PRETRAIN.replace("stride: 4}", "stride: 4, sees: changes}")
    told = pretrain(text.replace("crop_px: 32", f"crop_px: 32, {augment}"))
    assert "augment.difference must be 0 where backbone.sees is changes" in told


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-3", "0.001", ".1e-2"])
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, number: str) -> None:
    (tmp_path / "mine.yaml").write_text(PRETRAIN.replace("lr: 0.01", f"lr: {number}"))
    assert load(Pretrain, tmp_path / "mine.yaml").optim.lr == 0.001


# --- names


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("name: moco", "name: moko", "method: no 'moko' in vidssl.methods; did you mean 'moco'?"),
        (
            "name: slow,",
            "name: slowfst,",
            "backbone: no 'slowfst' in vidssl.backbones; did you mean 'slowfast'?",
        ),
        ("name: moco, ", "", "method: needs a name, one of "),
        ("name: moco", "name: _moco", "method: no '_moco' in vidssl.methods"),
        ("name: moco", "name: ../moco", "method: no '../moco' in vidssl.methods"),
    ],
)
def test_an_unknown_method_or_backbone_is_answered_with_the_nearest(
    pretrain: Refused, right: str, wrong: str, message: str
) -> None:
    told = pretrain(PRETRAIN.replace(right, wrong))
    assert message in told


def test_an_unknown_operator_is_answered_with_the_nearest(
    refused: Refused, tiny: dict[str, Path], training_data: list[object]
) -> None:
    told = refused(
        *("finetune", tiny["detection_bank"], "--encoder", "random", *training_data),
        *("--out", "run", "--set", "head.operator.name=fbo_n"),
    )
    assert "head.operator: no 'fbo_n' in vidssl.features.operators" in told
    assert "did you mean 'fbo_nl'? (choices: fbo_avg, fbo_max, fbo_nl)" in told


def test_an_unknown_recipe_is_answered_with_the_nearest(refused: Refused, index: Path) -> None:
    told = refused("pretrain", "moco_smal", "--videos", index, "--out", "run")
    assert "no pretrain recipe 'moco_smal'; did you mean 'moco_small'?" in told
    assert "moco_playground" in told


def test_a_recipe_file_that_is_not_there_is_answered_with_the_nearest(
    refused: Refused, index: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(PRETRAIN)
    told = refused("pretrain", tmp_path / "mien.yaml", "--videos", index, "--out", "run")
    assert "mien.yaml: no such recipe file; did you mean 'mine.yaml'?" in told


def test_a_recipe_of_another_task_is_refused(
    refused: Refused, tiny: dict[str, Path], index: Path, pretrained: Path
) -> None:
    told = refused("pretrain", tiny["detection"], "--videos", index, "--out", "run")
    assert "is a detection recipe; expected a pretrain recipe" in told
    told = refused(
        *("extract-features", tiny["pretrain"], "--encoder", pretrained, "--videos", index),
        *("--boxes", "b.csv", "--out", "bank"),
    )
    assert "is a pretrain recipe; expected an extract recipe" in told


def test_a_bundled_recipe_of_another_task_is_told_of(refused: Refused, index: Path) -> None:
    told = refused("pretrain", "playground_bank", "--videos", index, "--out", "run")
    assert "no pretrain recipe 'playground_bank'" in told


# --- the file


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch ran']",
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [ran]]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!mine 3",
    ],
)
def test_a_yaml_tag_is_refused_and_nothing_runs(
    pretrain: Refused, tmp_path: Path, tag: str
) -> None:
    told = pretrain(f"{PRETRAIN}seed: {tag}\n")
    assert "mine.yaml:6:7: could not determine a constructor for the tag" in told
    assert not (tmp_path / "ran").exists()


def test_a_yaml_tag_in_an_override_is_refused_and_nothing_runs(
    pretrain: Refused, tmp_path: Path
) -> None:
    told = pretrain(PRETRAIN, "--set", "seed=!!python/object/apply:os.system ['touch ran']")
    assert "could not determine a constructor for the tag" in told
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: pretrain\nbackbone: {name: slow\noptim: 1\n", "mine.yaml:3:"),
        ("task: [pretrain\n", "mine.yaml:2:1: "),
        ("task:\n\tpretrain\n", "mine.yaml:2:1: found character '\\t'"),
        ("", "mine.yaml: expected keys and values, found nothing"),
        ("# only a comment\n", "mine.yaml: expected keys and values, found nothing"),
        ("- a\n- b\n", "mine.yaml: expected keys and values, found a list"),
        ("just words\n", "mine.yaml: expected keys and values, found a single value"),
        ("a: &x [*x]\n", "mine.yaml"),
        ("{[1]: 2}: 3\n", "mine.yaml:1:2: a key must be a word"),
        ("1: 2\n" + PRETRAIN, "1: "),
        ("---\na: 1\n---\nb: 1\n", "mine.yaml:3:1: "),
    ],
)
def test_broken_yaml_is_told_with_its_place(pretrain: Refused, text: str, message: str) -> None:
    assert message in pretrain(text)


def test_a_recipe_that_is_no_text_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00task")
    told = refused("pretrain", "mine.yaml", "--videos", ".", "--out", "run")
    assert "mine.yaml: cannot be read as a text file" in told


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(PRETRAIN)
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbf" + PRETRAIN.encode())
    assert load(Pretrain, tmp_path / "marked.yaml") == load(Pretrain, tmp_path / "plain.yaml")


# --- overrides


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean 'lr'?"),
        ("optm.lr=1", "optm: unknown key; did you mean 'optim'?"),
        ("optim.lr", "--set optim.lr: expected KEY=VALUE, such as optim.lr=0.1"),
        ("=1", "--set =1: expected KEY=VALUE"),
        ("seed.x=1", "--set seed.x=1: seed holds a value, not further keys"),
        ("optim.lr=[1", "--set optim.lr=[1:1:"),
        ("optim.lr=0", "optim.lr: should be greater than 0, found 0"),
        ("optim.epochs=3", "as steps or as epochs, not both"),
        ("task=detection", "mine.yaml: is a detection recipe; expected a pretrain recipe"),
    ],
)
def test_a_wrong_override_is_refused(pretrain: Refused, override: str, message: str) -> None:
    assert message in pretrain(f"{PRETRAIN}seed: 1\n", "--set", override)


def test_overrides_reach_nested_keys_that_the_file_has_not(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PRETRAIN)
    overrides = ["loader.workers=0", "optim.lr=1e-3", "method.symmetric=false", "seed=5"]
    recipe = load(Pretrain, tmp_path / "mine.yaml", overrides)
    assert recipe.loader.workers == 0
    assert recipe.optim.lr == 0.001
    assert recipe.method.model_dump()["symmetric"] is False
    assert recipe.seed == 5
    assert recipe.optim.batch == 2  # what stood beside it is still there


def test_steps_take_the_place_of_epochs_that_are_set_to_null(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PRETRAIN.replace("steps: 2", "epochs: 2"))
    overrides = ["optim.steps=7", "optim.epochs=null"]
    assert load(Pretrain, tmp_path / "mine.yaml", overrides).optim.steps == 7


# --- what the backbone cannot take

FIXED = "{name: mvit, frames: 4, crop_px: 64}"
SPLIT = "{name: slow, width: 8, depths: [1, 1, 1, 1], norm: {kind: sub-batch, splits: 2}}"
DETECTION = f"task: detection\nbackbone: {FIXED}\noptim: {{lr: 1, batch: 2, steps: 1}}\n"


def problem(kind: type[RecipeFile], text: str, tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load(kind, tmp_path / "mine.yaml")
    return str(caught.value)


def test_a_crop_that_the_backbone_cannot_take_is_refused(pretrain: Refused) -> None:
    text = PRETRAIN.replace(PRETRAIN.splitlines()[1], f"backbone: {FIXED}")
    said = " ".join(pretrain(text).split())
    assert "augment.crop_px: this mvit takes clips of backbone.crop_px = 64 pixels a side" in said
    assert "found 32 pixels" in said


def test_an_even_kernel_is_told_of_once_and_by_its_place(tmp_path: Path) -> None:
    for kernels in ("[1, 1, 1, 2, 3]", "[1, 1, 1, [1, 2], 3]"):
        text = PRETRAIN.replace("name: slow,", f"name: slow, temporal_kernels: {kernels},")
        said = problem(Pretrain, text, tmp_path).splitlines()
        assert len(said) == 2
        assert said[1].startswith("  backbone.temporal_kernels.3: a temporal kernel must be odd ")


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ("{crop_px: null, test_short_side_px: 64}", "augment.crop_px: this mvit takes clips of "),
        ("{crop_px: 64}", "augment.test_short_side_px: this mvit takes clips of "),
    ],
)
def test_a_detector_s_crop_must_fit_in_training_and_in_testing(
    tmp_path: Path, augment: str, message: str
) -> None:
    assert message in problem(Detection, f"{DETECTION}augment: {augment}\n", tmp_path)


def test_a_bank_s_short_side_must_fit(tmp_path: Path) -> None:
    text = f"task: extract\nbackbone: {FIXED}\n"
    assert "short_side_px: this mvit takes clips of" in problem(Extract, text, tmp_path)
    (tmp_path / "mine.yaml").write_text(f"{text}short_side_px: 64\n")
    assert load(Extract, tmp_path / "mine.yaml").short_side_px == 64


def test_a_batch_that_the_norm_cannot_split_is_refused(tmp_path: Path) -> None:
    text = PRETRAIN.replace(PRETRAIN.splitlines()[1], f"backbone: {SPLIT}")
    message = "optim.batch 3 is not a multiple of backbone.norm.splits, 2"
    assert message in problem(Pretrain, text.replace("batch: 2", "batch: 3"), tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    assert load(Pretrain, tmp_path / "mine.yaml").optim.batch == 2
