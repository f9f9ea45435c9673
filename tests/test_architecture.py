"""The shape of the code: imports point down, dependencies stay home, the package is whole."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

LAYERS = [  # lowest first; units on one line may not import each other
    {"vidssl.errors", "vidssl.boxes", "vidssl.progress"},
    {"vidssl.section", "vidssl.files"},
    {"vidssl.video", "vidssl.nn", "vidssl.ava", "vidssl.features"},
    {"vidssl.backbones", "vidssl.augment", "vidssl.sources"},
    {
        *("vidssl.methods", "vidssl.detection", "vidssl.data", "vidssl.probe", "vidssl.report"),
        *("vidssl.published", "vidssl.recognition"),
    },
    {"vidssl.train"},
    {"vidssl.recipe"},
    {"vidssl.jobs"},
    {"cli"},
]
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}

HOMES = {  # a dependency that changes under us, and the only places that may touch it
    "av": ("vidssl/video/",),
    "torchcodec": ("vidssl/video/",),
    "decord": ("vidssl/video/",),
    "fsspec": ("vidssl/video/storage.py",),
    "aiohttp": ("vidssl/video/storage.py",),
    "pytorchvideo": ("vidssl/backbones/",),
    "sklearn": ("vidssl/probe", "vidssl/sources/playground"),
    "yaml": ("vidssl/recipe.py",),
    "onnx": ("vidssl/jobs/_formats.py",),
    "onnxscript": ("vidssl/jobs/_formats.py",),
    "onnxruntime": ("vidssl/jobs/_formats.py",),
    "matplotlib": ("vidssl/report/",),
    "plotly": ("vidssl/report/",),
    "tensorboard": ("vidssl/train/board.py",),
    "rich": ("cli/",),
    "typer": ("cli/",),
}
UNWELCOME = {"utils", "common", "helpers", "core", "engine"}


def sources() -> list[Path]:
    files = sorted(
        path.relative_to(ROOT) for top in ("vidssl", "cli") for path in (ROOT / top).rglob("*.py")
    )
    assert len(files) > 20, "the search for source files found too few of them"
    return files


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Give (line, dotted name) of every absolute import, lazy ones included."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def unit_of(dotted: str) -> str:
    parts = dotted.split(".")
    return "cli" if parts[0] == "cli" else ".".join(parts[:2])


def test_every_unit_has_a_layer() -> None:
    units = {unit_of(".".join(path.with_suffix("").parts)) for path in sources()}
    units -= {"vidssl.__init__"}
    assert not units - LEVEL.keys(), "a unit has no layer: add it to LAYERS"


def test_imports_point_down() -> None:
    bad = []
    for path in sources():
        here = unit_of(".".join(path.with_suffix("").parts))
        for line, name in imports(path):
            if not name.startswith("vidssl."):
                continue
            there = unit_of(name)
            if there in {here, "vidssl.__version__"}:
                continue
            if there not in LEVEL or LEVEL[there] >= LEVEL.get(here, -1):
                bad.append(f"{path}:{line} imports {name}")
    assert not bad, "\n".join(bad)


def test_fragile_dependencies_stay_home() -> None:
    bad = [
        f"{path}:{line}: {name} belongs in {' or '.join(HOMES[name.split('.')[0]])}"
        for path in sources()
        for line, name in imports(path)
        if name.split(".")[0] in HOMES and not path.as_posix().startswith(HOMES[name.split(".")[0]])
    ]
    assert not bad, "\n".join(bad)


def test_dead_readers_and_transforms_are_not_imported() -> None:
    dead = ("pytorchvideo.transforms", "pytorchvideo.data", "torchvision.io")
    bad = [f"{p}:{n} {name}" for p in sources() for n, name in imports(p) if name.startswith(dead)]
    assert not bad, "\n".join(bad)


def test_the_library_never_prints() -> None:
    bad = []
    for path in sources():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                bad.append(f"{path}:{node.lineno}")
    assert not bad, "\n".join(bad)


def test_no_drawer_for_everything() -> None:
    bad = [str(path) for path in sources() if UNWELCOME & {*path.with_suffix("").parts}]
    assert not bad, f"name the thing after what it is: {bad}"


def test_packages_are_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(listed["tool"]["setuptools"]["packages"])
    mapped = {"vidssl": "vidssl", "cli": "vidssl" + "_cli", "recipes": "vidssl_recipes"}
    found = set()
    for top, name in mapped.items():
        for folder in [ROOT / top, *(ROOT / top).rglob("*")]:
            if (
                folder.is_dir()
                and "__pycache__" not in folder.parts
                and any(child.suffix in {".py", ".yaml"} for child in folder.iterdir())
            ):
                found.add(".".join((name, *folder.relative_to(ROOT / top).parts)))
    assert packages == found


def test_no_file_names_the_mapped_package() -> None:
    word = "vidssl" + "_cli"
    files = [ROOT / path for path in sources()] + sorted((ROOT / "tests").rglob("*.py"))
    bad = [str(path) for path in files if word in path.read_text(encoding="utf-8")]
    assert not bad, f"import inside cli/ relatively; reach the app by its entry point: {bad}"
