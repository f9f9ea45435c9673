"""The templates of all pages, and the one style sheet that they share.

``base.css`` has colours for the light and the dark, ``switch.html`` the switch between them: a
checkbox that the style sheet looks at, so that pages without scripts have it as well.
"""

import importlib.resources

from jinja2 import Environment, FunctionLoader, StrictUndefined


def environment() -> Environment:
    """Return what finds this package's templates by name; whatever is put into them is escaped."""
    return Environment(
        loader=FunctionLoader(text_of),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def text_of(name: str) -> str:
    """Return the text of one of this package's files."""
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def writable(html: str) -> str:
    """Return a page that a file can hold: a name that is not UTF-8 comes as lone surrogates."""
    return html.encode("utf-8", "backslashreplace").decode("utf-8")
