"""The one error that a user can mend."""


class UserError(Exception):
    """A mistake that the user can mend; its message is the one line that they see."""
