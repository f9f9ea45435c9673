"""Label maps: the list of actions of a dataset, or the part of it that is scored.

Read are the two text protobuf forms that AVA publishes (``label`` with ``label_id`` and
``label_type``, ``item`` with ``id``) and the csv form of AVA v2.0.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vidssl.ava.rows import Problems, read_text, shortened, written_aside
from vidssl.errors import AnnotationError, nearest

AVA_ACTIONS = 80
LARGEST_ID = 1_000_000  # a larger one is a mistake, not a class
BLOCKS = ("item", "label")
KEYS = {"name": "name", "id": "id", "label_id": "id", "label_type": "label_type"}
CSV_HEADER = ["label_id", "label_name", "label_type"]
FORMS = "'item { name: ... id: ... }', 'label { name: ... label_id: ... }' or " + ",".join(
    CSV_HEADER
)
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
TOKEN = re.compile(r'#[^\n]*|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|[-+\w]+|\S')


@dataclass(frozen=True)
class LabelMap:
    """The actions of a file, in its order: names by id, and the group of each (often empty)."""

    names: dict[int, str]
    groups: dict[int, str] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids in the order of the file."""
        return tuple(self.names)

    @property
    def size(self) -> int:
        """The largest id: the number of outputs of a classifier, whose column ``id - 1`` it is."""
        return max(self.names)

    @property
    def limit(self) -> int:
        """The largest id that a file read with this map may use.

        A map that numbers its actions 1, 2, ..., ``size`` is the whole list, and any other id is a
        mistake. A map with gaps says which actions are scored; the files that it is used with may
        hold the rest, up to AVA's 80.
        """
        whole = len(self.names) == self.size
        return self.size if whole else max(self.size, AVA_ACTIONS)


@dataclass(frozen=True)
class _Entry:
    line: int
    values: dict[str, str]


def has_control(name: str) -> bool:
    """Return whether a name has a line end or another character that no line of a file holds."""
    return CONTROL.search(name) is not None


def read_labels(path: Path) -> LabelMap:
    """Return the label map of a text protobuf or csv file.

    Raises:
        AnnotationError: if the file is absent, empty or of another format, or an entry lacks its
            name or id, or a name has control characters, or an id is out of range or appears twice;
            with all problems of the file.
    """
    text = read_text(path)
    problems = Problems(path)
    header = next(csv.reader(io.StringIO(text, newline=None)), [])
    is_csv = [cell.strip().lower() for cell in header] == CSV_HEADER
    parse = _csv_entries if is_csv else _protobuf_entries
    labels = _label_map(parse(text, problems), problems)
    problems.check()
    if not labels.names:
        raise AnnotationError(f"{path}: no labels: expected {FORMS}, found none")
    return labels


def write_labels(path: Path, labels: LabelMap) -> None:
    """Write a text protobuf that the official scripts read: ``label`` with groups, else ``item``.

    Raises:
        OutputError: if the file cannot be written.
        ValueError: if a name has control characters, with which it could not be read again.
    """
    if unwritable := [name for name in labels.names.values() if has_control(name)]:
        raise ValueError(f"names with control characters: {unwritable}")
    with written_aside(path) as file:
        for label_id, name in labels.names.items():
            quoted = name.replace("\\", "\\\\").replace('"', '\\"')
            if group := labels.groups.get(label_id, ""):
                lines = ["label {", f'  name: "{quoted}"', f"  label_id: {label_id}"]
                lines.append(f"  label_type: {group}")
            else:
                lines = ["item {", f'  name: "{quoted}"', f"  id: {label_id}"]
            file.write("\n".join([*lines, "}", ""]))


def _csv_entries(text: str, problems: Problems) -> Iterator[_Entry]:
    reader = csv.reader(io.StringIO(text, newline=None))
    next(reader)
    for row in reader:
        if len(row) == len(CSV_HEADER):
            label_id, name, group = row
            values = {"id": label_id.strip(), "name": name, "label_type": group.strip()}
            yield _Entry(reader.line_num, values)
        elif row:
            expected = f"{len(CSV_HEADER)} ({','.join(CSV_HEADER)})"
            problems.add(reader.line_num, "wrong number of columns", expected, len(row))


def _protobuf_entries(text: str, problems: Problems) -> Iterator[_Entry]:
    """Give the blocks of the file; stop at the first place that is not a label map."""
    tokens = _tokens(text)
    for line, word in tokens:
        if word not in BLOCKS or next(tokens, (line, ""))[1] != "{":
            found = shortened(text.split("\n")[line - 1].strip())
            reason = f"not a label map{nearest(word, BLOCKS)}"
            problems.add(line, reason, FORMS, repr(found))
            return
        values = _fields(tokens, line, problems)
        if values is None:
            return
        yield _Entry(line, values)


def _fields(
    tokens: Iterator[tuple[int, str]], opened: int, problems: Problems
) -> dict[str, str] | None:
    """Return the fields up to the closing brace, or None where the block is broken."""
    values: dict[str, str] = {}
    for line, word in tokens:
        if word == "}":
            return values
        colon = next(tokens, (line, ""))[1]
        value = next(tokens, (line, "}"))[1]
        if word not in KEYS or colon != ":" or value in "{}:":
            reason = f"not a field of a label{nearest(word, KEYS)}"
            problems.add(line, reason, f"one of {', '.join(KEYS)} and its value", repr(word))
            return None
        values[KEYS[word]] = _unquoted(value)
    problems.add(opened, "block not closed", "'}'", "the end of the file")
    return None


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        for word in TOKEN.findall(line):
            if not word.startswith("#"):
                yield number, word


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] in "\"'" else value


def _label_map(entries: Iterator[_Entry], problems: Problems) -> LabelMap:
    names: dict[int, str] = {}
    groups: dict[int, str] = {}
    for entry in entries:
        label_id = _label_id(entry, problems)
        if not entry.values.get("name"):
            problems.add(entry.line, "label without a name", "a name", "none")
        elif has_control(name := entry.values["name"]):
            expected = "a name on one line"
            problems.add(entry.line, "control character", expected, shortened(repr(name)))
        elif label_id in names:
            expected = f"each id once (it is {names[label_id]!r})"
            problems.add(entry.line, "repeated id", expected, label_id)
        elif label_id:
            names[label_id] = entry.values["name"]
            groups[label_id] = entry.values.get("label_type", "")
    return LabelMap(names, groups)


def _label_id(entry: _Entry, problems: Problems) -> int:
    """Return the id of an entry, or 0 where it has no usable one."""
    text = entry.values.get("id", "none")
    if text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= LARGEST_ID:
        return int(text)
    problems.add(entry.line, "wrong id", f"a whole number from 1 to {LARGEST_ID}", text)
    return 0
