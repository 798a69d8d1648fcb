"""What Boxwood raises and warns with."""


class BoxwoodError(ValueError):
    """Something that was given cannot be used; the message says what, and the way out.

    Every message follows one pattern: ``Expected …, got …; do …``. The command line turns
    this error, and no other, into one paragraph and exit code 2.

    Example:
        >>> raise BoxwoodError("Expected sparsity in [0, 1), got 1.5; give the fraction of zeros.")
        Traceback (most recent call last):
        ...
        boxwood._internal.core.errors.BoxwoodError: Expected sparsity in [0, 1), got 1.5; give the fraction of zeros.
    """


class NoEffect(UserWarning):
    """A call was valid and changed nothing, which is rarely what was meant."""


class SelectionWarning(UserWarning):
    """What is pruned by default may not be what was meant: matrices are left out, or are shared."""


class Damaged(UserWarning):
    """A file cannot be used and was left out; the message names it and says what to do."""
