"""The undefended network of a run: the same network without protection. Attacks on it are the reference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import JsonValue

from smartedge.config import Config, differences, load_config
from smartedge.data import DataSet, batches
from smartedge.errors import ConfigError
from smartedge.files import private_folder, write_json_atomically
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.gathering import FEWEST_IMAGES, assemble, gather, open_audited, trained_parts
from smartedge.lab.audit.run_evidence import RunEvidence, device_of
from smartedge.methods.base import get_method
from smartedge.methods.hierarchical import ExitLearner
from smartedge.methods.loop import Progress, fit, load_training_state, training_state
from smartedge.runs.checkpoint import Checkpoints, save_weights
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.types import ImageBatch

__all__ = ["gather_undefended", "is_undefended", "training_differences", "undefended_config"]

_LEAST_TRAINED = 0.25  # share of a front's training; with less it is no network to compare with
_TRAINING_SHARE = 0.6  # of the time, at most
_UNFINISHED = "unfinished"  # folder of the weights of a front that a budget cut short
# Sections and keys whose difference makes another network, or other images or labels: its figures say nothing here.
_OF_ANOTHER_TASK = ("method", "data", "model", "weights", "front", "start")


def gather_undefended(
    defended: RunEvidence,
    folder: Path,
    *,
    named: Path | None,
    monitor: Monitor,
    clock: Clock,
    note: Callable[[str], None],
) -> RunEvidence:
    """The evidence of the same network, cut and exit, but without bottleneck, noise and adversarial exits.

    Args:
        defended: the audited run's evidence. If that run is undefended itself, it is returned under another name.
        folder: keeps the undefended front, which is trained once.
        named: a finished run to use instead of training a front.
        monitor: takes progress updates.
        clock: when it runs out, the training stops; the next call continues after its last whole epoch. A front that
            had at least a quarter of its training serves this call.
        note: takes a sentence on what such a front lacks.

    Raises:
        ConfigError: ``named`` is defended itself, or learned from other images.
        RunError: ``named`` has not finished.
        OutOfTime: there was no time for a quarter of the front's training, or to compute its features.
    """
    attributes = list(defended.classes)
    if named is not None:
        clock.check()
        evidence = gather(named, attributes, name="undefended", clock=clock, monitor=monitor)
        _check_comparable(defended, evidence, named)
        return evidence
    if is_undefended(defended.config):
        return replace(defended, name="undefended")
    clock.check()
    config = undefended_config(defended.config)
    opened = open_audited(config, attributes)
    if _settings_of(folder) != config.identity():
        shutil.rmtree(folder, ignore_errors=True)
    weights = folder
    if not (folder / "front.safetensors").exists():
        # The features of its images come after the training, and take about as long as those of the audited front.
        images = len(defended.val) + len(defended.test) + min(FEWEST_IMAGES, len(defended.train))
        reserve = defended.seconds_each * images
        if reserve >= clock.remaining():
            raise OutOfTime(f"the features of {images} images would take the undefended front {reserve:.0f} s")
        part = clock.part(min(_TRAINING_SHARE * clock.remaining(), clock.remaining() - reserve))
        share = _train_front(config, opened.dataset, folder, monitor, part)
        if share < 1:
            weights = folder / _UNFINISHED
            note(f"the undefended front had {share:.0%} of its training; another call continues there")
    parts = trained_parts(config, opened.dataset.task, weights)
    return assemble("undefended", config, opened, parts, None, folder=folder / "features", clock=clock, monitor=monitor)


def is_undefended(config: Config) -> bool:
    """Whether a run has no protection: no bottleneck, no codewords, no noise, no adversarial exits."""
    if not get_method(config.method).divides:  # the images themselves
        return True
    narrowed = config.bottleneck is not None or config.model.codebook is not None
    return not narrowed and config.dp.mechanism == "none" and not config.suppresses


def undefended_config(config: Config) -> Config:
    """The settings of a run, without its protection."""
    raw = config.model_dump(mode="json")
    raw["model"] |= {"bottleneck": None, "codebook": None}
    if raw["codec"]["name"] == "code":  # this codec is only for codewords
        raw["codec"]["name"] = None
    for section in ("adversary", "dp"):
        del raw[section]
    del raw["train"]["distill"]
    return load_config(raw)


def _settings_of(folder: Path) -> object:
    """The settings of the front that is kept in the folder; None where there is no front."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def training_differences(defended: Config, undefended: Config) -> tuple[str, ...]:
    """The settings of training in which a named undefended run differs, beside its protection; each with its values."""
    keys = _differences(defended, undefended)
    return tuple(text for key, text in keys.items() if not key.startswith(_OF_ANOTHER_TASK))


def _check_comparable(defended: RunEvidence, undefended: RunEvidence, named: Path) -> None:
    if not is_undefended(undefended.config):
        raise ConfigError(f"--undefended {named}: that run has a bottleneck, noise or adversarial exits of its own")
    keys = _differences(defended.config, undefended.config)
    if refused := [text for key, text in keys.items() if key.startswith(_OF_ANOTHER_TASK)]:
        raise ConfigError(
            f"--undefended {named}: that run learned from other images, or is another network: {'; '.join(refused)}. "
            "Give a run that differs only in its protection"
        )
    if not torch.equal(defended.test_ids, undefended.test_ids):
        raise ConfigError(f"--undefended {named}: that run was tested on other images; give one with the same 'seed'")


def _differences(defended: Config, undefended: Config) -> dict[str, str]:
    """The settings that the front of a run depends on, and in which two runs differ, beside their protection.

    Returns:
        key → the key with both values, for people.
    """
    return {
        key: f"{key} is {theirs}, and {ours} in the audited run"
        for key, (ours, theirs) in differences(_of_front(defended), _of_front(undefended)).items()
    }


def _of_front(config: Config) -> dict[str, JsonValue]:
    """What the front of the undefended network would learn from and how, by these settings."""
    found = undefended_config(config).identity()
    for of_the_cloud in ("codec", "fleet", "cloud", "schedule", "epochs"):
        del found[of_the_cloud]
    data, train = found["data"], found["train"]
    assert isinstance(data, dict) and isinstance(train, dict)
    del data["sensitive"]  # without suppression the front does not learn from it
    data["audit_share"] = config.audit_share  # by default it follows from the sensitive columns
    train["front_epochs"] = config.front_epochs if config.front_first else config.epochs
    # Randomised labels change which images are chosen for data.limit, and set apart.
    return {**found, "dp": {"label_epsilon": "none" if config.dp.label_epsilon is None else "some"}}


def _train_front(config: Config, dataset: DataSet, folder: Path, monitor: Monitor, clock: Clock) -> float:
    """Train front and task exit with these settings, as the edge does. A later call resumes after the last epoch.

    Returns:
        The share of the training that was done. Below 1 the weights are in the folder ``unfinished``.

    Raises:
        OutOfTime: it is less than a quarter.
    """
    train, split = config.train, dataset.splits["train"]
    device = device_of(config)
    learner = ExitLearner(config, dataset.task, device)
    random = RandomStream(derive_seed(config.seed, "edge"), device)
    epochs = config.front_epochs if config.front_first else config.epochs
    progress = Progress(epochs, max(1, len(split) // train.batch_size))
    private_folder(folder)
    write_json_atomically(folder / "config.json", config.identity())
    checkpoints = Checkpoints(folder / "checkpoints")
    if numbers := checkpoints.numbers():
        load_training_state(checkpoints.load(numbers[-1]), learner.modules, learner.optimizer, random, progress)

    def shuffled(epoch: int) -> Generator[ImageBatch, None, None]:
        with batches(
            split,
            train.batch_size,
            seed=config.seed,
            epoch=epoch,
            shuffle=True,
            augment=config.data.augment,
            drop_last=len(split) >= train.batch_size,
        ) as loader:
            yield from loader

    def report(progress: Progress) -> None:
        text = f"epoch {progress.epoch + 1}/{epochs}"
        monitor.update(Update("audit", "undefended front", progress.step, progress.steps, text))

    def save(progress: Progress) -> None:
        checkpoints.save(progress.epoch, training_state(learner.modules, learner.optimizer, random, progress))
        checkpoints.forget_before(progress.epoch)

    if not fit(
        learner.learn,
        shuffled,
        progress,
        rates=learner.rates,
        random=random,
        report=report,
        after_epoch=save,
        stop=lambda: clock.remaining() == 0,
    ):
        if progress.share < _LEAST_TRAINED:
            raise OutOfTime(
                f"the undefended front is at epoch {progress.epoch + 1} of {epochs}; another call continues there"
            )
        private_folder(folder / _UNFINISHED)
        for name in ("exit", "front"):
            save_weights(folder / _UNFINISHED / f"{name}.safetensors", learner.modules[name].state_dict())
        return progress.share
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)
    save_weights(folder / "exit.safetensors", learner.modules["exit"].state_dict())
    # Written last: it marks the front as finished.
    save_weights(folder / "front.safetensors", learner.modules["front"].state_dict())
    checkpoints.forget_before(epochs + 1)
    return 1.0
