"""Named errors. Each message says what is wrong, what came, what was expected and what to do.

Every error is also the builtin exception that a caller would expect (`ValueError`, `FileNotFoundError`, ...),
so it can be caught without importing this package.
"""

from __future__ import annotations

from gymnasium.error import ResetNeeded


class WorldEnvError(Exception):
    """Base class of all errors of this package."""


class TwinNotFoundError(WorldEnvError, FileNotFoundError):
    """No bundled twin has this name, and no folder exists at this path."""


class TwinFormatError(WorldEnvError, ValueError):
    """The folder is not a twin, or one of its files is damaged, edited or missing."""


class TwinVersionError(TwinFormatError):
    """The twin has a newer format than this version of the package can read."""


class TwinMismatchError(TwinFormatError):
    """The weights in the folder do not match the configuration in the folder."""


class TwinSaveError(WorldEnvError, OSError):
    """The twin could not be written. An existing twin at the same path is unchanged."""


class TwinBusyError(TwinSaveError):
    """Another process is saving the same twin."""


class ExternalWeightsError(WorldEnvError, OSError):
    """Weights that lie outside the folder of a twin cannot be downloaded."""


class UnknownFamilyError(WorldEnvError, ValueError):
    """No family of world models is registered under this name."""


class PluginError(WorldEnvError, ImportError):
    """A family of world models in an installed package cannot be imported. The message names the package."""


class UnsupportedSpaceError(WorldEnvError, TypeError):
    """The observation or action space is not supported."""


class SpaceMismatchError(WorldEnvError, ValueError):
    """Two objects that must have equal spaces (a twin and a policy, data and a spec) have different ones."""


class InvalidActionError(WorldEnvError, ValueError):
    """The action is not in the action space: wrong shape, wrong type, or not finite."""


class InvalidObservationError(WorldEnvError, ValueError):
    """The observation is not in the observation space: wrong shape, wrong type, or not finite."""


class InvalidOptionError(WorldEnvError, ValueError):
    """An option or constructor argument has an unknown name or an invalid value."""


class UnknownArgumentError(WorldEnvError, TypeError):
    """An environment was created with an unknown keyword argument. The message begins as that of Python."""


class ResetNeededError(WorldEnvError, ResetNeeded):
    """`step()` was called before the first `reset()`, or after the episode ended."""


class KnownFunctionError(WorldEnvError, ValueError):
    """A known reward or termination function is missing, or returned an invalid result."""


class NoGoalRewardError(KnownFunctionError, AttributeError):
    """A twin or a real environment has no rewards of goals: no function `compute_reward`.

    It is also an AttributeError: environments without such a function do not have the method `compute_reward`.
    """


class MissingExtraError(WorldEnvError, ImportError):
    """An optional dependency is not installed. The message contains the pip command."""


class DataError(WorldEnvError, ValueError):
    """The data cannot be used to fit a twin. The message names the column or the episode."""


class TooLittleDataError(DataError):
    """The data has fewer steps or episodes than the stage needs. The message gives the number needed."""


class LintError(DataError):
    """`lint` found errors in the data, so no twin is fitted. The message lists them and what to do."""


class InitialStatesError(WorldEnvError, ValueError):
    """A twin has no initial states, or an initial state cannot be encoded."""


class StageError(WorldEnvError, RuntimeError):
    """A pipeline stage cannot continue: inputs are missing, or belong to another run."""


class EnvApiError(StageError):
    """A real environment does not follow the Gymnasium API. The message says what came and what is expected."""


class ConfigMismatchError(StageError):
    """The folder of a run holds results of other settings. The message names the settings that differ."""


class ExportError(WorldEnvError, RuntimeError):
    """A policy or a twin cannot be exported, or its export differs from it. Nothing was written."""


class RealStepLimitError(StageError):
    """The next real step would exceed the limit on real steps. It was not taken; what was collected before is kept."""


class StageBusyError(StageError):
    """Another process is running a stage in the same folder."""


class CheckError(WorldEnvError, AssertionError):
    """A contract check of `world_env.testing` failed.

    It is also an AssertionError, and it is raised under `python -O` too.
    """
