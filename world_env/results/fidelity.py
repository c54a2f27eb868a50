"""Measured accuracy of a twin. Lists along a number of steps or dimensions hold None where a number is undefined."""

from __future__ import annotations

from collections.abc import Sequence

from world_env.errors import InvalidOptionError
from world_env.results.comparison import Interval, PolicyComparison
from world_env.results.lint_issue import LintIssue
from world_env.struct import Struct
from world_env.types import Termination

Numbers = list[float | None]


class FitLosses(Struct, frozen=True, kw_only=True):
    """Last validation of a fit."""

    best_open_loop: float | None = None
    """Selection criterion of the weights: saturated open-loop error in 0..1; 0: exact."""
    open_loop: float | None = None
    """The same at the last validation."""
    open_loop_rms: float | None = None
    """Mean root mean square error, standard deviations of the data."""
    hold_last_rms: float | None = None
    """The same for the last observation held."""
    parts: dict[str, float | Numbers | None] = {}
    """Parts of the family's training loss."""


class OpenLoopErrors(Struct, frozen=True, kw_only=True):
    """Open-loop errors on the validation split after 1, 2, ... steps."""

    unit: str
    error: Numbers
    """Root mean square error over all dimensions."""
    hold_last: Numbers
    """The same for the last observation held."""
    energy: Numbers = []
    """Energy scores of sampled predictions; empty for a model that is not scored by draws."""
    hold_energy: Numbers = []
    """The same for the last observation held."""
    windows: int
    """Number of rollouts."""

    def __post_init__(self) -> None:
        _check_lengths(self, len(self.error), hold_last=self.hold_last)


class TerminationScores(Struct, frozen=True, kw_only=True):
    """Predicted terminations on single real steps of the validation split; None where a score is undefined."""

    terminal_labels: int
    """Real terminations."""
    precision: float | None
    recall: float | None
    brier: float | None
    """Mean squared error of the probability."""
    bounds: list[str] = []
    """Hard termination bounds of single dimensions, in words."""


class TerminationRule(Struct, frozen=True, kw_only=True):
    """Choice between a threshold and sampled terminations. It is made if the threshold miscounts real terminations.

    Lengths are mean steps until an episode terminates, at most those of the longest real episode. Gaps are largest
    differences between the real and the learned share of episodes that are running.
    """

    rule: Termination
    """Chosen rule, that of the twin."""
    episodes: int
    """Number of real episodes whose actions were repeated with both rules."""
    real_length: float
    threshold_length: float
    sample_length: float
    threshold_gap: float
    sample_gap: float

    @property
    def learned_length(self) -> float:
        """Mean length of learned episodes with the chosen rule."""
        return self.sample_length if self.rule == "sample" else self.threshold_length


class ObservationErrors(Struct, frozen=True, kw_only=True):
    """Open-loop errors by dimension (an image is one dimension): a list over the steps for each name."""

    steps: list[int]
    unit: str
    names: list[str]
    windows: list[int]
    """Rollouts at each step."""
    error: list[Numbers]
    """Root mean square errors of the twin."""
    hold_last: list[Numbers]
    """The same for the last observation held."""
    linear: list[Numbers] | None
    """The same for a linear model of the same data; None: not fitted."""

    def __post_init__(self) -> None:
        _check_lengths(self, len(self.steps), windows=self.windows)
        for name in ("error", "hold_last", "linear"):
            curves = getattr(self, name)
            if curves is None:
                continue
            _check_lengths(self, len(self.names), **{name: curves})
            for curve in curves:
                _check_lengths(self, len(self.steps), **{name: curve})


class RewardErrors(Struct, frozen=True, kw_only=True):
    """Mean absolute errors of learned rewards along real episodes."""

    steps: list[int]
    unit: str
    one_step: Numbers
    """Error of the reward of the step."""
    return_so_far: Numbers
    """Error of the sum of rewards up to the step."""
    return_spread: Numbers
    """Standard deviation of that sum in the real episodes."""


class Survival(Struct, frozen=True, kw_only=True):
    """Share of episodes that have not terminated after some steps, under the same actions."""

    steps: list[int]
    real: Numbers
    learned: Numbers
    episodes: int

    def __post_init__(self) -> None:
        _check_lengths(self, len(self.steps), real=self.real, learned=self.learned)


class UncertaintyRanking(Struct, frozen=True, kw_only=True):
    """Rank agreement of the mean uncertainty so far and the error, over the rollouts."""

    steps: list[int]
    spearman: Numbers
    auroc: Numbers
    """Area under the ROC curve for the worst tenth of the errors."""


class HorizonErrors(Struct, frozen=True, kw_only=True):
    """Errors of a twin by number of steps without real observations."""

    observation: ObservationErrors
    reward: RewardErrors
    termination: TerminationScores | None
    """None: a known function ends the episodes."""
    survival: Survival | None
    """None: no real episode terminates."""
    uncertainty: UncertaintyRanking | None
    """None: the model has no uncertainty."""
    trusted_horizon: int
    """Largest measured step that is trusted with all steps before it; 0: none."""


class ActionEffects(Struct, frozen=True, kw_only=True):
    """Differences between the outcomes of two action sequences from one state, learned against real.

    Scores are None where the environment cannot be set to an earlier state.
    """

    steps: list[int]
    unit: str
    effect_size: Numbers | None = None
    """Root mean square of the real effects."""
    effect_error: Numbers | None = None
    """Root mean square of learned minus real effects, as a share of that size; 1: no effect is predicted."""
    cosine: Numbers | None = None
    """Mean cosine similarity of learned and real effects."""
    rank: Numbers | None = None
    """Spearman correlation over effects and dimensions."""
    pairs: list[int] | None = None
    """Compared pairs at each step."""
    states: int
    actions: int
    """Action sequences from each state."""
    reason: str | None = None
    """Why there are no scores."""

    def __post_init__(self) -> None:
        for name in ("effect_size", "effect_error", "cosine", "rank", "pairs"):
            _check_lengths(self, len(self.steps), **{name: getattr(self, name)})


class AgreementCeilings(Struct, frozen=True, kw_only=True):
    """Agreement between two halves of the real episodes, which an exact simulator would reach."""

    spearman: float | None
    mmrv: float | None


class PolicyCount(Struct, frozen=True, kw_only=True):
    """Number of policies, and of the training runs that they come from."""

    policies: int
    runs: int


class AgreementMeasures(PolicyCount, omit_defaults=True, frozen=True, kw_only=True):
    """Agreement of learned and real returns over policies; None where a number is undefined.

    Fractions are shares of the pool's range of real returns; other returns are in task units.
    """

    pearson: float | None
    spearman: float | None
    spearman_upper_half: float | None
    """Over the better half of the policies."""
    mmrv: float
    """Mean maximum rank violation."""
    mmrv_fraction: float | None
    regret1: float
    """Real return lost by choosing the policy with the highest learned return."""
    regret3: float
    """The same for the best of the three highest."""
    bias: float
    """Mean of learned minus real return."""
    bias_fraction: float | None
    mae: float
    """Mean absolute difference of learned and real return."""
    mae_fraction: float | None
    ceiling: float | None
    """Pearson correlation between two halves of the real episodes."""
    ceilings: AgreementCeilings
    pearson_ci95: Interval | None = None
    spearman_ci95: Interval | None = None
    mmrv_ci95: Interval | None = None
    bias_ci95: Interval | None = None


class KindAgreement(AgreementMeasures, frozen=True, kw_only=True):
    """Agreement over one kind of policies, with the quality of their predicted returns."""

    coverage90: float | None
    """Share of the predicted intervals that contain the real return."""
    width_fraction: float | None
    """Median width of the predicted intervals."""
    supported_share: float
    """Share of the policies with a predicted interval."""
    supported: AgreementMeasures | None
    """Measures over these policies; None: there are none."""


class PoolSummary(PolicyCount, frozen=True, kw_only=True):
    """Policy pool that evaluated a twin."""

    episodes: int
    """Real episodes of each policy."""
    real_steps: int
    """Real environment steps that the pool has cost."""
    range: Interval
    """Lowest and highest mean real return, task units."""


class PolicyPoint(Struct, frozen=True, kw_only=True):
    """Real, learned and predicted return of one evaluated policy, task units."""

    policy: str
    run: str
    kind: str
    """"evaluation": trained in the real environment only. "optimisation": trained in the twin."""
    real: float
    real_ci95: Interval
    learned: float
    learned_ci95: Interval
    learned_return: float | None = None
    """Mean learned return from the twin's own initial states."""
    past_threshold_share: float | None
    """Share of the learned steps that are out of distribution."""
    supported: bool
    """Whether there is a predicted interval."""
    low: float | None
    high: float | None


class Agreement(Struct, frozen=True, kw_only=True):
    """Agreement of a twin with reality over a policy pool."""

    pool: PoolSummary
    evaluation: KindAgreement
    """Policies that were trained in the real environment only."""
    optimisation: KindAgreement | None
    """Policies that were trained in the twin."""
    points: list[PolicyPoint]


class ReturnCalibration(Struct, frozen=True, kw_only=True):
    """Calibration of predicted returns on a policy pool, task units."""

    level: float
    """Nominal coverage of the interval."""
    bias: float
    """Usual return gap of a policy without out-of-distribution steps."""
    bias_per_share: float
    """Its change per share of out-of-distribution steps."""
    half_width: float
    """Half width of the interval."""
    most_past_threshold: float
    """Largest share of out-of-distribution steps of a policy with an interval."""
    calibrated_on: PolicyCount
    coverage: dict[str, float | None] = {}
    """Kind of policies -> measured coverage."""
    width_fraction: float | None = None
    """Median width of the intervals as a share of the pool's range of real returns."""


class Fidelity(Struct, omit_defaults=True, frozen=True, kw_only=True):
    """Everything that was measured of a twin. Fields that were not measured have their defaults."""

    validation_steps: int | None = None
    """Steps of the validation split."""
    open_loop: OpenLoopErrors | None = None
    """Open-loop errors on the validation split."""
    reward_error: float | None = None
    """Mean absolute error of the reward of a step, task units."""
    termination: TerminationScores | None = None
    """Predicted terminations on the validation split."""
    termination_rule: TerminationRule | None = None
    """Choice of the rule of termination. None: the threshold gives the right number of terminations."""
    notes: list[str] = []
    """Limits of the data, found before the fit."""
    lint: list[LintIssue] = []
    """Errors and warnings of the data that `lint` found before the fit."""
    loss: FitLosses = FitLosses()
    """Last validation of the fit."""
    comparison: list[PolicyComparison] = []
    """Learned and real returns of policies."""
    horizons: HorizonErrors | None = None
    """Errors by number of steps without real observations."""
    action_effects: ActionEffects | None = None
    """Predicted effects of other actions."""
    agreement: Agreement | None = None
    """Agreement of learned and real returns over a policy pool."""
    return_prediction: ReturnCalibration | None = None
    """Calibration of predicted returns; None: predicted returns have no interval."""


def _check_lengths(owner: Struct, wanted: int, **lists: Sequence[object] | None) -> None:
    for name, values in lists.items():
        if values is not None and len(values) != wanted:
            raise InvalidOptionError(
                f"{name} of {type(owner).__name__} has {len(values)} entries, expected {wanted}"
            )
