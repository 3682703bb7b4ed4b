"""The error tree. Every message is one sentence: what came, what is taken, what to do.

    AnyloomError
    ├── InputError            the caller's request can't be used        exit code 2
    │   ├── MediaError        a picture or sound can't be taken
    │   │   └── Unreachable   a URL's host does not answer; an OSError too: trying again may help
    │   ├── UnknownName       a modality, model, voice, turn … that doesn't exist
    │   └── SettingsError     a setting, URL or folder that can't be used
    ├── CheckpointError       weights are missing, misshapen or unsafe  exit code 2
    ├── StoreError            the database or a blob is unusable        exit code 2
    ├── ContextFull           the request doesn't fit the model         exit code 2
    ├── ReplayError           a trace can't be replayed                 exit code 1
    ├── Busy                  the engine's queue is full                exit code 1
    └── Cancelled             the caller cancelled                      exit code 1

Knows nothing of who shows the message.
"""

from __future__ import annotations


class AnyloomError(Exception):
    """Base of all errors that a user should read as one sentence; `exit_code` is what a command line ends with."""

    exit_code = 1


class InputError(AnyloomError):
    """The caller's request can't be used."""

    exit_code = 2


class MediaError(InputError):
    """A picture or a sound can't be taken."""


class Unreachable(MediaError, OSError):
    """A URL's host does not answer. An OSError as well, so that whoever retries those retries this."""


class UnknownName(InputError):
    """A name (modality, model, voice, turn …) that doesn't exist."""


class SettingsError(InputError):
    """A setting, URL or folder that can't be used."""


class CheckpointError(AnyloomError):
    """Weights are missing, misshapen or unsafe to open."""

    exit_code = 2


class StoreError(AnyloomError):
    """The database or a blob is unusable."""

    exit_code = 2


class ContextFull(AnyloomError):
    """The request alone doesn't fit into the model's context."""

    exit_code = 2


class ReplayError(AnyloomError):
    """A stored trace can't be replayed as asked."""


class Busy(AnyloomError):
    """The engine's queue is full."""


class Cancelled(AnyloomError):
    """The caller cancelled the call."""
