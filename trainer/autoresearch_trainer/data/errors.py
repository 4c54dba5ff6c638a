"""The one error of this package that a person is meant to read."""


class DataError(Exception):
    """A data set cannot be made, fetched or used; the message says what, where and how to mend it."""
