"""The one exception a user is meant to read."""


class StudyError(Exception):
    """A failure the user can act on: one sentence that names what is at fault and the next step.

    Commands print it without a stack trace and exit with status 1; notebooks show it as a sentence.
    """
