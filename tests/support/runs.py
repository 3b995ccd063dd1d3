"""One experiment decoded and graded in this process, and others that differ from it."""

from dataclasses import fields, replace

from decode.evaluation.experiment import Experiment
from decode.evaluation.lineup import Lineup
from decode.evaluation.predict import Predictions, run_all


def run(experiment, folder) -> Predictions:
    """Predictions of every system of one experiment."""
    return run_all([(experiment, folder)])[0]


def changed(experiment: Experiment, **values) -> Experiment:
    """The experiment with other values, those of its lineup and of its first expert included."""
    lineup = experiment.lineup
    first, *more = lineup.experts
    own = {key: values.pop(key) for key in ("expert", "antiexpert") if key in values}
    experts = (replace(first, **own), *values.pop("more_experts", more))
    names = {field.name for field in fields(Lineup)}
    of_lineup = {key: values.pop(key) for key in names & set(values)}
    return replace(experiment, lineup=replace(lineup, experts=experts, **of_lineup), **values)
