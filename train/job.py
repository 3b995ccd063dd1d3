"""The job of a training entry, paragraph by paragraph, whatever the method of training.

    job = Job(recipe, is_main_process, "sft")
    models = job.models(trainer_config)                # before any weights load: raises ValueError
    data = job.data(models, training_rows)
    job.claim(models, data)
    tracker = job.train(models, data, report_rows, train)
    print(job.decode(models, tracker))

A method brings four functions: what configures its trainer, what reads its rows, what reports them
and what trains one model.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import TrainerCallback

from decode.evaluation.experiment import Experiment, check
from decode.evaluation.shares import decode_shares
from decode.jobs.disk import check_writable
from decode.jobs.environment import describe_environment
from decode.jobs.faults import doing
from decode.jobs.files import write_json
from decode.jobs.folder import RunFolder
from decode.jobs.lock import occupy
from decode.jobs.processes import Replica, check_devices, check_group, check_launch
from decode.stage import artifacts
from decode.stage.planning import plan
from decode.stage.stage import decode_stage, next_job, track
from decode.stage.validation import Plan, with_choices
from decode.tracking.job import NullTracker
from recipes.schema.recipe import Recipe, save_recipe

from . import zero
from .claims import claim
from .preferences import TrainerConfig
from .proxy_check.callback import proxy_checks
from .proxy_check.rows import CheckRows, check_rows, claim_checks
from .rows.lengths import check_lengths
from .rows.training_rows import TrainingRows
from .trainer import TrackingCallback, uses_cpu
from .training import Training, trainings

logger = logging.getLogger(__name__)

Configure = Callable[[Training, int, str], TrainerConfig]  # seed and the run's name
ReadRows = Callable[[Recipe, Sequence[Experiment], int], TrainingRows]  # rows held out at the end
Report = Callable[[TrainingRows, Training, TrainerConfig, RunFolder, NullTracker], None]
Train = Callable[[Training, TrainingRows, TrainerConfig, Sequence[TrainerCallback]], None]


@dataclass(frozen=True, slots=True)
class Models:
    """What is evaluated, and what is trained before.

    Attributes:
        plan: an experiment and a folder for each task, first the task that is learnt.
        trainings: first the expert's, unless it is finished; each with its trainer's configuration.
    """

    plan: Plan
    trainings: Sequence[tuple[Training, TrainerConfig]]


@dataclass(frozen=True, slots=True)
class Data:
    """What is trained on, and what a proxy check asks; None without one."""

    rows: TrainingRows
    checks: CheckRows | None


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a training entry, on each of its processes; `method` is the entry's own."""

    recipe: Recipe
    is_main_process: bool
    method: str

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.recipe.output_dir)

    def models(self, configure: Configure) -> Models:
        """The recipe's experiments and trainings, with the launch that is to run them checked.

        Raises:
            ValueError: in one line what the launch, a model or a setting has wrong.
        """
        recipe = self.recipe
        if recipe.trains and recipe.method != self.method:
            raise ValueError(
                f"this recipe trains by its section {recipe.method}: give it to "
                f"train/{recipe.method}.py; train/{self.method}.py is for recipes with a section "
                f"{self.method}"
            )
        check_launch()
        if self.is_main_process:
            check_writable("output_dir", self.folder.recipe)
        check_devices(uses_cpu(recipe.trainer), f"{recipe.method}.use_cpu")
        with doing("reading the models' configs, tokenizers and questions"):
            experiments = plan(recipe)
            for experiment, _ in experiments:
                check(experiment)
        configured = []
        for training in trainings(recipe):
            with doing(f"configuring the training of {training.target}"), training.naming_keys():
                configured.append((training, configure(training, recipe.seed, recipe.name)))
            check_group()  # the first configuration brings the processes together
        return Models(experiments, configured)

    @doing("reading the training rows")
    def data(self, models: Models, read: ReadRows) -> Data | None:
        """The training rows and the proxy check's rows; None if everything is trained already.

        Raises:
            ValueError: in one line what a row, a source or a key has wrong.
        """
        if not models.trainings:
            return None
        experiments = [experiment for experiment, _ in models.plan]
        (_, config), *_ = models.trainings
        checks = check_rows(self.recipe, experiments[0], config)
        num_held_out = 0 if checks is None else checks.num_held_out
        rows = read(self.recipe, experiments, num_held_out)
        for training, config in models.trainings:
            if not training.is_complete:
                with training.naming_keys():
                    check_lengths(rows, training, config)
        return Data(rows, checks)

    def claim(self, models: Models, data: Data | None) -> None:
        """Check that no other process and no other recipe has begun what this job trains.

        Raises:
            ValueError: in one line who is at work in the folder, or which settings differ.
        """
        if self.is_main_process:
            occupy(self.folder.path)
        if data is not None:
            claim(self.recipe, [training for training, _ in models.trainings], data.rows.digest)
            if data.checks is not None:
                claim_checks(self.recipe, data.checks, self.folder)

    def train(self, models: Models, data: Data | None, report: Report, train: Train) -> NullTracker:
        """The tracker of the trainings; every model is trained when this returns."""
        recipe, is_main = self.recipe, self.is_main_process
        if is_main:
            save_recipe(recipe, self.folder.recipe)
            write_json(self.folder.environment, describe_environment())
        with track(recipe, "train", is_main and recipe.trains) as tracker:
            if data is not None:
                if is_main:
                    report(data.rows, *models.trainings[0], self.folder, tracker)
                    rows = artifacts.training_rows(recipe, data.rows.sources, data.rows.digest)
                    tracker.uses(rows)
                self._train_all(models, data, tracker, train)
            if recipe.expert.trained is None and tracker.is_on:
                tracker.makes(artifacts.expert(recipe))
        zero.leave()
        # Here, and not after the first process has uploaded: an upload can outlast the time-out of
        # the group that trained.
        Replica.of_this_process().barrier()
        return tracker

    def decode(self, models: Models, tracker: NullTracker) -> str | None:
        """What to print at the end, on the process that has decoded last; None on the others."""
        with next_job(self.recipe, tracker, "decode", self.is_main_process) as tracker:
            experiments = with_choices(models.plan)
            if decode_shares(experiments):
                return decode_stage(self.recipe, experiments, tracker)
        return None

    def _train_all(self, models: Models, data: Data, tracker: NullTracker, train: Train) -> None:
        folder = self.folder
        for training, config in models.trainings:
            if training.is_complete:
                logger.info("%s is complete: not trained again", training.target)
                continue
            callbacks: list[TrainerCallback] = [TrackingCallback(tracker.log, training.prefix)]
            if training.target == folder.expert:
                callbacks += proxy_checks(self.recipe, data.checks, folder, tracker.log)
            with doing(f"training {training.target}"):
                train(training, data.rows, config, callbacks)
            if self.is_main_process and training.target == folder.expert:
                folder.keep(folder.training_log)
            zero.empty_memory()
        shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)  # of no further use
