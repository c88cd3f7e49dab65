"""The one exception that means: the user gave something we cannot use, and here is what to do about it; and text that all can show."""


class BadInput(ValueError):
    """Bad input or usage. Its message is one line: what was got, what was expected, the remedy."""


def printable(text: str) -> str:
    r"""Return a text as one line that every terminal and every file takes: other characters as their escapes.

    Example:
        >>> print(printable("red: \x1b[31m, NUL: \0, half a pair: \udcff, two\nlines, größer"))
        red: \x1b[31m, NUL: \x00, half a pair: \udcff, two\nlines, größer
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
