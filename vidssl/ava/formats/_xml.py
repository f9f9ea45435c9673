"""XML that cannot do anything: no document type, hence no entities and nothing to fetch.

The elements below the root come one by one, so that a long file takes no more memory than its
longest track.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from vidssl.ava.formats._faults import require_size
from vidssl.errors import AnnotationError, nearest

PIECE_BYTES = 1 << 16
DEEPEST = 50  # elements inside one another; annotations have six


@dataclass
class Element:
    """An element with its line, from 1, its attributes, its text and what is inside."""

    tag: str
    line: int
    attributes: dict[str, str]
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    @property
    def where(self) -> str:
        """The element as a message names it."""
        name = next(
            (
                f" {k}={self.attributes[k]!r}"
                for k in ("id", "frame", "name")
                if k in self.attributes
            ),
            "",
        )
        return f"line {self.line}, <{self.tag}{name}>"

    def all(self, *tags: str) -> Iterator["Element"]:
        """Give the elements at the end of a way of tags."""
        found = [self]
        for tag in tags:
            found = [child for one in found for child in one.children if child.tag == tag]
        return iter(found)

    def said(self, *tags: str) -> str:
        """Return the text at the end of a way of tags; nothing where there is no such element."""
        return next((one.text.strip() for one in self.all(*tags)), "")


def top_elements(path: Path, root: str) -> Iterator[Element]:
    """Give the elements below the root, which must be called ``root``.

    Raises:
        AnnotationError: if the file is absent, too large, no XML, has another root or a document
            type.
    """
    require_size(path)
    builder = _Builder(path, root)
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                raise AnnotationError(f"{path}: an archive; unpack it and give its annotations.xml")
            file.seek(0)
            while piece := file.read(PIECE_BYTES):
                builder.feed(piece, last=False)
                yield from builder.finished()
        builder.feed(b"", last=True)
        yield from builder.finished()
    except FileNotFoundError:
        near = nearest(path.name, [sibling.name for sibling in path.parent.glob("*")])
        raise AnnotationError(f"{path}: no such file{near}") from None
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from None


class _Builder:
    """Elements of a file that is read piece by piece."""

    def __init__(self, path: Path, root: str) -> None:
        self.path, self.root = path, root
        self._open: list[Element] = []
        self._texts: list[list[str]] = []  # the pieces of each open element's text
        self._done: list[Element] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        # Entities are declared in a document type: without one there are none to expand or fetch.
        self._parser.StartDoctypeDeclHandler = self._refuse

    def feed(self, piece: bytes, *, last: bool) -> None:
        """Read on.

        Raises:
            AnnotationError: if what comes is no XML.
        """
        try:
            self._parser.Parse(piece, last)
        except expat.ExpatError as error:
            where = f"{self.path.name}:{error.lineno}:{error.offset + 1}"
            said = expat.errors.messages[error.code]
            raise AnnotationError(f"{where}: not XML: {said}") from None
        except (LookupError, ValueError) as error:  # of the encoding that the file declares
            raise AnnotationError(
                f"{self.path.name}: encoding not known here: expected UTF-8, found {error}"
            ) from None

    def finished(self) -> list[Element]:
        """Return what has been read since the last call."""
        done, self._done = self._done, []
        return done

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        if not self._open and tag != self.root:
            raise AnnotationError(
                f"{self.path.name}:{line}: another format: expected <{self.root}>, found <{tag}>"
            )
        if len(self._open) >= DEEPEST:
            raise AnnotationError(
                f"{self.path.name}:{line}: too deeply nested: expected at most {DEEPEST} elements "
                f"inside one another, found <{tag}>"
            )
        self._open.append(Element(tag, line, attributes))
        self._texts.append([])

    def _end(self, tag: str) -> None:
        element = self._open.pop()
        element.text = "".join(self._texts.pop())
        if len(self._open) == 1:
            self._done.append(element)
        elif self._open:
            self._open[-1].children.append(element)

    def _text(self, text: str) -> None:
        if len(self._open) > 1:
            self._texts[-1].append(text)

    def _refuse(self, name: str, *_: object) -> NoReturn:
        line = self._parser.CurrentLineNumber
        raise AnnotationError(
            f"{self.path.name}:{line}: has a document type: expected none, found <!DOCTYPE {name}> "
            "(it could expand entities or fetch files, and no annotation tool writes one)"
        )
