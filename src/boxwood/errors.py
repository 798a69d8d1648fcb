"""The errors that Boxwood raises, and its warnings.

Every message has one form: ``Expected …, got …; do …``. ``except boxwood.BoxwoodError`` catches all
of it; the classes below say what a program can do about it.
"""


class BoxwoodError(Exception):
    """The base class of all errors of Boxwood.

    The command line turns these errors, and no others, into one paragraph and exit code 2.

    Example:
        >>> raise BoxwoodError("Expected sparsity in [0, 1), got 1.5; give the fraction of zeros.")
        Traceback (most recent call last):
        ...
        boxwood.errors.BoxwoodError: Expected sparsity in [0, 1), got 1.5; give the fraction of zeros.
    """


class InvalidInput(BoxwoodError, ValueError):
    """An argument, an option or data has a value that cannot be used; correct it and call again.

    Example:
        >>> import boxwood, torch
        >>> boxwood.find_masks(torch.nn.Linear(2, 2), sparsity=1.5)
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected sparsity in [0, 1), got 1.5; give the fraction of weights that become zero, such as 0.9.
    """


class UnsupportedModel(BoxwoodError):
    """The code of a model does something that Boxwood cannot trace; the message names the line.

    A part of the model, another example or another method may still work.
    """


class EquivalenceError(BoxwoodError):
    """A smaller or compiled network does not compute what the masked network computes."""


class TrainingDiverged(BoxwoodError):
    """The loss is no longer finite, so further steps would be wasted."""


class DistributedError(BoxwoodError):
    """Ranks of ``torch.distributed`` hold or request different things."""


class CheckpointError(BoxwoodError):
    """A file, a folder or a store cannot be read or written.

    It is damaged, incomplete, of a newer version, of another format or of another network.
    """


class UntrustedCode(BoxwoodError):
    """A file names code that you have not trusted; none of it was run."""


class MissingDependency(BoxwoodError, ImportError):
    """A package of an extra is not installed; the message has the pip command."""


class EdgeOfGrid(UserWarning):
    """The best of several settings is the lowest or highest that was tried."""


class TooFewExamples(UserWarning):
    """A fit has more unknowns than the data has rows, so it overfits."""


class NoEffect(UserWarning):
    """A call was valid but changed nothing, which is rarely intended."""


class SelectionWarning(UserWarning):
    """The default selection may not be what you meant: matrices are left out, or are shared."""


class DamagedFileWarning(UserWarning):
    """A file cannot be used and was skipped; the message names it and says what to do."""
