"""Reading in bulk against reading strictly: the same table, or the same complaint."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidssl.ava import bulk
from vidssl.ava.annotations import (
    ANNOTATION_LAYOUTS,
    PREDICTION_LAYOUTS,
    read_annotations,
    read_predictions,
)
from vidssl.ava.labels import LabelMap
from vidssl.errors import AnnotationError

Write = Callable[..., Path]
Reader = Callable[..., Any]

READERS: list[Reader] = [read_annotations, read_predictions]
ALL_80 = LabelMap({label: str(label) for label in range(1, 81)})
ROW = "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1"
ODD_CELLS = [
    *("", " ", "0", "1", "-1", "81", "-2", "+3", "7 ", " 7", "\t7", "007", "1.0", "1e0", "0x1F"),
    *(
        "1_0",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "Infinity",
        "NA",
        "null",
        "NULL",
        "#N/A",
        "true",
        "1e400",
    ),
    *("0.5", ".5", "5.", "+.5", "-0", "1e-320", "0.1e", "0,5", "٣", "0x1p-1", "1.000001", "-1e-6"),
    *(
        "9223372036854775807",
        "9223372036854775808",
        "99999999999999999999999",
        "0.30000000000000004",
    ),
    *(
        "café",
        '"0.4"',
        '"a',
        "a\x00",
        "\ufeff",
        "0.4\u00a0",
        "0.4\u2003",
        "12abc",
        "1.5e-1",
        "0.4f",
    ),
]
SPREAD = 40  # random files of one sort


def outcome(read: Reader, path: Path) -> list[Any]:
    """The bytes and types of every column, or the words of the error."""
    try:
        table = read(path, ALL_80)
    except AnnotationError as error:
        return [str(error)]
    return [(column.dtype, column.shape, column.tobytes()) for column in vars(table).values()]


def assert_same(read: Reader, path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file was read in bulk, which must not show in the outcome."""
    layouts = ANNOTATION_LAYOUTS if read is read_annotations else PREDICTION_LAYOUTS
    quick = bulk.read(path, layouts, ALL_80.limit, whole_last=read is read_annotations) is not None
    found = outcome(read, path)
    with monkeypatch.context() as strictly:
        strictly.setattr(bulk, "read", lambda *_, **__: None)
        assert found == outcome(read, path)
    return quick


def random_file(rng: np.random.Generator, width: int, bare: float, whole: bool) -> list[str]:
    lines = []
    for _ in range(int(rng.integers(1, 60))):
        video = str(rng.choice(["a", "ü", "b b", "-5KQ66BBWC4", " c"]))
        second = str(rng.choice(["0902", "902", "903.5", "903.500000", "1e3", "0"]))
        if rng.random() < bare:
            lines.append(f"{video},{second}")
            continue
        low = rng.uniform(-1e-6, 0.5, 2)
        box = [*low, *(low + rng.uniform(1e-3, 0.5, 2))]
        text = [str(rng.choice([repr(float(v)), f"{v:.3f}", f"{v:.6e}"])) for v in box]
        last = str(rng.integers(-1, 9)) if whole else repr(float(rng.normal()))
        lines.append(",".join([video, second, *text, str(rng.integers(1, 81)), last][:width]))
    return lines


@pytest.mark.parametrize("seed", range(SPREAD))
def test_sound_files_of_every_layout_are_read_alike(
    write: Write, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    for read, width in ((read_annotations, 8), (read_annotations, 7), (read_predictions, 8)):
        lines = random_file(rng, width, rng.choice([0, 0.1, 0.9]), read is read_annotations)
        end = str(rng.choice(["\n", "\r\n"]))
        head = str(rng.choice(["", "\ufeff", "video,timestamp,and so on\n"]))
        text = head + end.join(lines) + str(rng.choice(["", end]))
        path = write("file.csv", data=text.encode())
        assert_same(read, path, monkeypatch)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("column", range(8))
def test_an_odd_cell_is_read_or_refused_alike(
    read: Reader, column: int, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cell in ODD_CELLS:
        cells = ROW.split(",")
        cells[column] = cell
        for lines in ([",".join(cells)], [ROW, ",".join(cells), "a,7", ROW]):
            assert_same(read, write("odd.csv", *lines), monkeypatch)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "\n\n", ",", " , ", "a,1", "a,1\na,2\n", "a,1\n,2\n", "a\n", "a,\n", "a,x\n"),
        *(f"{ROW}\n\n{ROW}", f"\n{ROW}", f"{ROW}\n\n", f"{ROW}\n \n", f"{ROW}\n , \n{ROW}\n"),
        *(f"{ROW},9\n", f"{ROW}\n{ROW},9\n", f"{ROW}\n{ROW[:-2]}\n", f"{ROW[:-2]}\n{ROW}\n{ROW}"),
        *(f"{ROW}\r{ROW}\r", f"{ROW}\r\n{ROW}\n", f"{ROW}\n\r{ROW}", f"{ROW}\r\r\n{ROW}"),
        *(f"\ufeff{ROW}", f"\ufeff\ufeff{ROW}", f"{ROW}\n\ufeff{ROW}", f"\ufeff\na,time\n{ROW}"),
        *(
            f"v,Timestamp\n{ROW}",
            f"{ROW}\nv,timestamp\n",
            f"v, sec ,x\n\n{ROW}",
            "v,time",
            "v,sec\n",
        ),
        *(f"a,7\nb,8\n{ROW}\nc,9", f"a,7\n{ROW},9\n", f"{ROW}\na,nan\n", f"{ROW}\na,-1\n"),
        *(
            f"{ROW}\n,7\n",
            f'{ROW}\n"a",7\n',
            f'a"b{ROW}',
            f"{ROW}\n" * 3 + "a,1_0\n",
            "x" * 2_000 + ROW,
        ),
    ],
)
def test_an_odd_file_is_read_or_refused_alike(
    read: Reader, text: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same(read, write("odd.csv", data=text.encode()), monkeypatch)


@pytest.mark.parametrize("read", READERS)
def test_bytes_that_are_no_text_are_refused_alike(
    read: Reader, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (f"{ROW}\n\xe9,7\n".encode("latin-1"), b"\xff\xfe" + ROW.encode()):
            assert not assert_same(read, write("odd.csv", data=data), monkeypatch)


def test_what_detectors_write_is_read_in_bulk(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Were it not, the tests above would compare the strict reader with itself.
    rows = [ROW, ROW.replace("0902", "0903.5"), "empty,0904", ROW.replace(",1", ",0")]
    for text in ("\n".join(rows), "\r\n".join(rows) + "\r\n", f"v,time\n{ROW}\n", f"\ufeff{ROW}"):
        for read in READERS:
            assert assert_same(read, write("file.csv", data=text.encode()), monkeypatch)
    path = write("seven.csv", ROW[:-2])
    assert assert_same(read_annotations, path, monkeypatch)


def test_bare_rows_stay_where_they_stood(write: Write) -> None:
    # Over the size of a block, so that places are counted through several.
    rng = np.random.default_rng(1)
    lines = [
        f"{ROW[:-1]}{number}" if rng.random() < 0.9 else f"v,{number}" for number in range(200_000)
    ]
    table = read_annotations(write("long.csv", *lines))
    expected = [number for number, line in enumerate(lines) if line.startswith("v,")]
    assert np.flatnonzero(table.action == 0).tolist() == expected
    assert table.timestamp[expected].tolist() == expected
    full = np.setdiff1d(np.arange(len(lines)), expected)
    assert (table.person[full] == full).all()
