"""The one exception that means: the user gave something we cannot use, and here is what to do about it."""


class BadInput(ValueError):
    """Bad input or usage. Its message is one line: what was got, what was expected, the remedy."""
