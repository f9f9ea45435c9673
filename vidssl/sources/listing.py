"""Lists of videos: one path a line (txt), a csv with a ``path`` column, a Parquet table, an index.

Relative paths are taken from the folder of the list.
"""

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vidssl.errors import SourceError, listed, nearest


def scan(path: Path) -> list[Path]:
    """Return the videos of the list at ``path``, in its order, each once.

    Raises:
        SourceError: if the list has no ``path`` column, is empty, or none of its files is there.
    """
    names = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)
    videos = [path.parent / name for _, name in names]
    absent = [
        f"{path}:{line}: no such file: {video}"
        for (line, _), video in zip(names, videos, strict=True)
        if not video.is_file()
    ]
    if not videos:
        raise SourceError(f"{path}: the list names no video")
    if len(absent) == len(videos):
        raise SourceError(listed(f"{path}: none of the {len(videos)} videos is there", absent, 8))
    return list(dict.fromkeys(videos))


def _text(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not a text file in UTF-8 ({error.reason})") from error
    if path.suffix.lower() == ".txt":
        return [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except csv.Error as error:
        raise SourceError(f"{path}:{reader.line_num}: not a csv file ({error})") from error
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0][1]]
    if "path" not in header:
        hint = nearest("path", header)
        raise SourceError(f"{path}:1: expected a column named path, found {header}{hint}")
    column = header.index("path")
    short = [f"{path}:{line}: no path in this row" for line, row in rows[1:] if len(row) <= column]
    if short:
        raise SourceError(listed(f"{path}: not a list of videos", short))
    return [(line, row[column].strip()) for line, row in rows[1:]]


def _parquet(path: Path) -> list[tuple[int, str]]:
    try:
        table = pq.read_table(path, columns=["path"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise SourceError(f"{path}: not a Parquet table with a column named path") from error
    names = table["path"].to_pylist()
    wrong = [f"row {n}: {name!r}" for n, name in enumerate(names, 1) if not isinstance(name, str)]
    if wrong:
        raise SourceError(listed(f"{path}: the column named path must hold text", wrong, 8))
    return list(enumerate(names, 1))
