"""The named errors. Each message says what came, what was expected and what to do.

Every error is also the builtin that a caller would expect (`ValueError`, `FileNotFoundError`, ...),
so code that knows nothing of this package can still catch it.
"""

from __future__ import annotations

from gymnasium.error import ResetNeeded


class WorldEnvError(Exception):
    """Base of every error that this package raises on purpose."""


class TwinNotFoundError(WorldEnvError, FileNotFoundError):
    """No bundled twin has this name and no folder lies at this path."""


class TwinFormatError(WorldEnvError, ValueError):
    """The folder is no twin, or one of its files is damaged, edited or incomplete."""


class TwinVersionError(TwinFormatError):
    """The twin was written in a newer format than this version reads."""


class TwinMismatchError(TwinFormatError):
    """The weights in the folder do not fit the config in the folder."""


class TwinSaveError(WorldEnvError, OSError):
    """The twin could not be written; what was there before is untouched."""


class TwinBusyError(TwinSaveError):
    """Another process is saving the same twin right now."""


class UnknownFamilyError(WorldEnvError, ValueError):
    """No world model family is registered under this name."""


class UnsupportedSpaceError(WorldEnvError, TypeError):
    """An observation or action space that no codec covers."""


class SpaceMismatchError(WorldEnvError, ValueError):
    """Two things that should share spaces (a twin and a policy, data and a spec) do not."""


class InvalidActionError(WorldEnvError, ValueError):
    """An action that the real environment would not understand either."""


class InvalidObservationError(WorldEnvError, ValueError):
    """An observation that does not belong to the observation space."""


class InvalidOptionError(WorldEnvError, ValueError):
    """An option or a constructor argument with an unknown name or an impossible value."""


class ResetNeededError(WorldEnvError, ResetNeeded):
    """A step before the first reset, or of a row whose episode is over."""


class KnownFunctionError(WorldEnvError, ValueError):
    """A known reward or termination function is missing, or returned the wrong thing."""


class MissingExtraError(WorldEnvError, ImportError):
    """An optional dependency is not installed; the message holds the pip line."""


class DataError(WorldEnvError, ValueError):
    """Data that no twin can be fitted to: the message names the column or the episode."""


class TooLittleDataError(DataError):
    """Fewer steps or episodes than the stage needs; the message says how many are needed."""


class InitialStatesError(WorldEnvError, ValueError):
    """A twin without start states, or a start that cannot be encoded."""


class StageError(WorldEnvError, RuntimeError):
    """A stage of the pipeline cannot go on: inputs are missing, or belong to another run."""
