"""The one error that a user can mend, and other errors in words."""


class UserError(Exception):
    """A mistake that the user can mend; its message is the one line that they see."""


def in_words(error: Exception) -> str:
    """What an error says, without the number that the operating system gives it."""
    cause = getattr(error, "reason", None)  # what went wrong in a download
    error = cause if isinstance(cause, OSError) else error
    if getattr(error, "strerror", None) is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
