"""The error that a command ends with when what it was given cannot be used."""

from __future__ import annotations


class CommandError(Exception):
    """A mistake in what a command was given: shown in one line, without a traceback.

    Args:
        message (str): What is wrong, and what to write instead.
    """
