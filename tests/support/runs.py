"""One experiment decoded and graded in this process."""

from decode.evaluation.predict import Predictions, run_all


def run(experiment, folder) -> Predictions:
    """Predictions of every system of one experiment."""
    return run_all([(experiment, folder)])[0]
