"""What a run measured, as typed records: the contents of `metrics.json`."""

from pydantic import BaseModel, ConfigDict, Field

from .gap_closed import GapClosed
from .intervals import Estimate
from .mcnemar import McNemar
from .metric import Metric
from .systems import Role, headline_alpha, system_name


class Record(BaseModel):
    """A part of metrics.json; keys that were never given are not written."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Tried(Record):
    """One candidate on the validation rows that it was given."""

    alpha: float
    rule: str
    num_rows: int
    value: float
    behind: Estimate | None
    """The chosen one minus this, on the rows that both were given; None for the chosen one."""


class Choice(Record):
    """What validation rows chose for one base."""

    alpha: float
    rule: str
    settings: dict[str, bool | int | float | str | None]
    """The rule's own fields."""
    rows: str
    """Which rows chose."""
    num_rows: int
    tried: tuple[Tried, ...]


class MeasuredProxy(Record):
    """A base steered at one alpha: its value, its gains and the gap it closes."""

    alpha: float
    rule: str = ""
    """The name of the rule it is steered by; "" is the paper's formula."""
    value: float
    ci95: tuple[float, float]
    gain_over_base: Estimate
    gain_over_expert: Estimate
    gap_closed: GapClosed | None
    gap_closed_reason: str | None
    """Why gap closed or its interval is missing."""


class MeasuredBase(Record):
    """One base: untuned, directly tuned (None without a reference) and steered, by alpha."""

    model: str
    endpoint: str | None = None
    """Where it is asked, if it is not loaded."""
    top_logprobs: int | None = None
    """How many next tokens that shows."""
    slug: str
    """The name its systems, files and W&B keys go by."""
    base: Estimate
    tuned: Estimate | None
    proxy: tuple[MeasuredProxy, ...]
    choice: Choice | None = None
    """How validation rows chose among alphas and rules; the chosen proxy is one of `proxy`."""

    @property
    def headline(self) -> MeasuredProxy:
        """The chosen proxy, else that at the headline alpha: not the best one, which would be
        chosen on the very rows that measure it.
        """
        if self.choice is not None:
            chosen = self.choice.alpha, self.choice.rule
            return next(p for p in self.proxy if (p.alpha, p.rule) == chosen)
        alpha = headline_alpha([proxy.alpha for proxy in self.proxy])
        return next(proxy for proxy in self.proxy if proxy.alpha == alpha)

    @property
    def over_alpha(self) -> list[MeasuredProxy]:
        """The proxies of the rule that comes first, alphas ascending: a curve."""
        same = [proxy for proxy in self.proxy if proxy.rule == self.proxy[0].rule]
        return sorted(same, key=lambda proxy: proxy.alpha)

    def name_of(self, proxy: MeasuredProxy) -> str:
        """The name of one of its proxies among the systems."""
        return system_name("proxy", self.slug, proxy.alpha, proxy.rule)

    def best(self, metric: Metric) -> MeasuredProxy:
        """The proxy with the best value."""
        return max(self.proxy, key=lambda proxy: metric.worth(proxy.value))


class Pair(Record):
    """Two systems on the same rows; `mcnemar` is None where a row is not simply right or wrong."""

    a: str
    b: str
    difference: Estimate
    """a minus b; positive where a is better."""
    mcnemar: McNemar | None


class Uncounted(Record):
    """Questions without a score in some system, which count in none."""

    num_questions: int
    by_system: dict[str, int]


class Visible(Record):
    """How much of a base behind an endpoint was seen, and what it cost (`Coverage.summary`)."""

    num_steps: int
    visible_mass: float | None
    """The mean probability of the tokens that could be chosen."""
    expert_hidden: float | None
    """The share of steps where the expert's likeliest token was not among them."""
    num_requests: int
    """Those paid for; answers on record are not asked for again."""
    num_from_record: int
    num_prompt_tokens: int
    num_completion_tokens: int
    num_unmatched: int
    """Shown tokens that could not be chosen: the expert's vocabulary lacks them, or a row that
    ends with them cannot be written as text."""
    unmatched: tuple[str, ...]
    """The first ten of them."""


class Decoding(Record):
    """What one system's decoding took (`DecodingStats.summary`)."""

    num_rows: int
    batch_size: int
    num_tokens: int
    tokens_per_second: float | None
    tokens_per_verify: float | None
    acceptance_rate: float | None
    accepted_drafts: tuple[int, ...]
    seconds: dict[str, float]
    peak_memory_gib: float | None
    """None where other processes hold the models."""
    endpoint: Visible | None = None
    """Of a base behind an endpoint."""


class Thoughts(Record):
    """How one system thought before it answered."""

    num_rows: int
    """Completions that thought at all."""
    mean_tokens: float
    num_cut: int
    """Those whose thinking used its budget up."""
    num_unended: int
    """Those whose thinking never ended, so that the answer is empty."""


class MeanOverTasks(Record):
    """One proxy's mean gap closed over all tasks; None, with the reason, if a task has none."""

    model: str
    slug: str
    alpha: float | None
    """None: each task's chosen one."""
    rule: str = ""
    value: float | None
    num_tasks: int
    reason: str | None
    gaps: dict[str, float | None]
    """By task."""


class MeasuredSystem(Record):
    """One system's value; `slug` and `alpha` are None where its role has none."""

    name: str
    role: Role
    slug: str | None
    alpha: float | None
    rule: str
    value: float
    low: float
    high: float
    proxy: MeasuredProxy | None
    """For a proxy, its gains and gap closed."""


class Metrics(Record):
    """One task's metrics.json; that of a run's first task has the further ones under `also`."""

    task: str
    folder: str | None = None
    """Of a further task: where its files are, in the run's folder."""
    metric_name: str = Field(alias="metric")
    higher_is_better: bool
    pass_at: int | None
    num_examples: int
    antiexpert: Estimate
    expert: Estimate
    bases: tuple[MeasuredBase, ...]
    pairs: tuple[Pair, ...]
    decoding: dict[str, Decoding] = {}
    """By system, like `parts`."""
    uncounted: Uncounted | None = None
    parts: dict[str, dict[str, float]] = {}
    """What judged scores are made of."""
    thinking: dict[str, Thoughts] = {}
    """By system; those that never thought are left out."""
    also: tuple["Metrics", ...] = ()
    mean_gap_closed: tuple[MeanOverTasks, ...] = ()

    @property
    def metric(self) -> Metric:
        """What was measured."""
        return Metric(self.metric_name, self.higher_is_better, self.pass_at)

    @property
    def tasks(self) -> tuple["Metrics", ...]:
        """This task and the further ones."""
        return (self, *self.also)

    @property
    def systems(self) -> list[MeasuredSystem]:
        """All systems in reading order: anti-expert, expert, then base by base."""
        found = [_system("antiexpert", self.antiexpert), _system("expert", self.expert)]
        for base in self.bases:
            found.append(_system("base", base.base, base.slug))
            found += [_system("proxy", proxy, base.slug) for proxy in base.proxy]
            if base.tuned is not None:
                found.append(_system("tuned", base.tuned, base.slug))
        return found


def _system(role: Role, entry: Estimate | MeasuredProxy, slug: str | None = None) -> MeasuredSystem:
    proxy = entry if isinstance(entry, MeasuredProxy) else None
    alpha, rule = (None, "") if proxy is None else (proxy.alpha, proxy.rule)
    low, high = entry.ci95
    return MeasuredSystem(
        name=system_name(role, slug, alpha, rule),
        role=role,
        slug=slug,
        alpha=alpha,
        rule=rule,
        value=entry.value,
        low=low,
        high=high,
        proxy=proxy,
    )
