"""All reconstruction attacks on a run, and on the same front without protection.

The results are the part ``reconstruction`` of ``audit.json``.

The pieces of work come in this order, each within its share of the remaining time. First the classifier that judges.
Then, for the defended and the undefended releases: the decoder, the GAN that starts from it, and the optimisation
through the white-box front. A finished piece is kept and reused. If time cut a piece short, it states how much of its
training it had. If no time was left for a piece, ``skipped`` lists it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smartedge.artifacts.audit import Skipped
from smartedge.artifacts.reconstruction import Reconstruction
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.reconstruction.classifier import (
    ADAPT_LR,
    BATCH,
    Classifier,
    LabelledImages,
    Question,
    labels_of,
    questions_of,
    recipe_of,
    train_classifier,
)
from smartedge.lab.audit.reconstruction.decoder import fresh_pairs, new_decoder, reconstruct_images, train_decoder
from smartedge.lab.audit.reconstruction.figures import Distance
from smartedge.lab.audit.reconstruction.gan import train_gan
from smartedge.lab.audit.reconstruction.judging import Judge, tuned
from smartedge.lab.audit.reconstruction.measures import finite_mean, perceptual_distance
from smartedge.lab.audit.reconstruction.networks import Decoder
from smartedge.lab.audit.reconstruction.pieces import (
    Reconstructions,
    at,
    least_share,
    stands,
    training_of,
    with_others,
)
from smartedge.lab.audit.reconstruction.pixels import to_image
from smartedge.lab.audit.reconstruction.recipe import Report
from smartedge.lab.audit.reconstruction.samples import combinations, write_samples
from smartedge.lab.audit.reconstruction.white_box import STEPS, Limits, choose_weights, invert
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.lab.audit.store import Store, key_of, weights_key
from smartedge.runs.pictures import as_pictures
from smartedge.runs.progress import Monitor, Update
from smartedge.runs.seeds import derive_seed

__all__ = ["reconstruct"]

_SUBSET = 64  # number of protected images that the optimisation reconstructs
_ADAPT_EPOCHS, _LEAST_ADAPT_STEPS = 2, 500
_SHARES = {"classifier": 3.0, "decoder": 4.0, "gan": 3.0, "white-box": 3.0}  # of the time, relative to each other
_ADAPT_SHARE = 0.3  # share of a decoder's or GAN's time for adapting the classifier
_CHOICE_SHARE = 0.3  # share of the optimisation's time for choosing its weights


def reconstruct(
    evidence: RunEvidence,
    undefended: RunEvidence | None,
    *,
    sensitive: Sequence[str],
    budget: Clock,
    folder: Path,
    monitor: Monitor,
    seed: int,
    skipped: list[Skipped],
) -> Reconstruction | None:
    """Attack both releases and judge the images; None where no time was left.

    Args:
        evidence: the evidence of the audited run.
        undefended: the evidence of the undefended front. If the audited run is undefended itself: the same releases
            under another name. None or ``evidence`` itself: there is nothing to compare with.
        sensitive: the attributes that a classifier reads from the reconstructions.
        budget: the time for everything.
        folder: takes finished pieces and ``samples.safetensors``.
        monitor: takes progress.
        seed: seed of the attackers.
        skipped: takes an entry for each attack that was cut short or left out.

    Raises:
        ConfigError: a package that the attacks need is not installed.
    """
    return _Attacks(evidence, undefended, sensitive, budget, Store(folder), monitor, seed, skipped).run()


class _Attacks:
    """The values that the pieces of one :func:`reconstruct` share."""

    def __init__(
        self,
        evidence: RunEvidence,
        undefended: RunEvidence | None,
        sensitive: Sequence[str],
        budget: Clock,
        store: Store,
        monitor: Monitor,
        seed: int,
        skipped: list[Skipped],
    ) -> None:
        self.skipped = skipped
        self.budget, self.store, self.monitor, self.seed = budget, store, monitor, seed
        self.compared = undefended is not None and undefended is not evidence
        same = undefended is None or undefended.test_features_NF is evidence.test_features_NF
        self.evidences = (evidence,) if same or undefended is None else (evidence, undefended)
        self.questions: tuple[Question, ...] = questions_of(evidence, sensitive)
        self.originals_NCHW = evidence.images(evidence.test)
        self.labels_NQ = labels_of(self.questions, evidence.test_desired, evidence.test_labels)
        hidden = [place for place, question in enumerate(self.questions) if not question.desired]
        self.sample = combinations(self.labels_NQ[:, 0], self.labels_NQ[:, hidden[0] if hidden else 0])
        self.subset = with_others(self.sample, len(self.labels_NQ), _SUBSET, seed)
        self.pieces = ["classifier", *(name for name in ("decoder", "gan", "white-box") for _ in self.evidences)]
        self.judging = 0.0  # seconds to judge the images of one attack, once they are known

    def run(self) -> Reconstruction | None:
        """Make the pieces, one after the other."""
        if self.budget.remaining() <= 0:
            self.skipped.append(Skipped(attack="reconstruction", reason="no time was left"))
            return None
        classifier = self._classifier()
        trained = self.budget.elapsed()
        evidence = self.evidences[0]
        distance = perceptual_distance(
            classifier.network, image_size=evidence.config.data.image_size, of=evidence.config.model.name
        )
        judge = Judge(classifier, distance, self.originals_NCHW, self.labels_NQ)
        references = judge.references(evidence)
        # An attack judges as many images as that, after its training.
        self.judging = self.budget.elapsed() - trained
        decoders: dict[str, Decoder | None] = {}
        found: dict[str, dict[str, Reconstructions]] = {each.name: {} for each in self.evidences}
        for each in self.evidences:
            decoders[each.name] = self._painted(each, "decoder", None, judge, found)
        for each in self.evidences:
            self._painted(each, "gan", decoders[each.name], judge, found)
        for each in self.evidences:
            self._optimised(each, decoders[each.name], judge, found)
        self._write_samples(distance, found)
        return Reconstruction.model_validate({**self._block(found), **references})

    # -- the pieces

    def _classifier(self) -> Classifier:
        evidence = self.evidences[0]
        key = key_of(evidence, "classifier", self.seed, self.questions)
        seconds = self._seconds("classifier")
        kept = self.store.load("classifier", key)
        if kept and stands(kept[0], seconds):
            classifier = Classifier.of(evidence, self.questions)
            classifier.network.load_state_dict(kept[1])
            self._note_cut("classifier", kept[0])
            return classifier
        report = self._reporter("classifier of images")
        classifier, fitted = train_classifier(
            evidence, self.questions, seconds=seconds, seed=self._derived("classifier"), report=report
        )
        training = training_of(fitted.epochs / fitted.planned, seconds)
        self.store.save("classifier", key, training, classifier.network.state_dict())
        self._note_cut("classifier", training)
        return classifier

    def _painted(
        self,
        evidence: RunEvidence,
        attack: str,
        plain: Decoder | None,
        judge: Judge,
        found: dict[str, dict[str, Reconstructions]],
    ) -> Decoder | None:
        """Train a decoder or GAN, reconstruct every protected image, and judge; None where there was no time."""
        piece = f"{evidence.name}-{attack}"
        made_with = (weights_key(judge.classifier.network), weights_key(plain), judge.distance.name)
        key = key_of(evidence, attack, self.seed, self.questions, made_with)
        seconds = self._seconds(attack)
        kept = self.store.load(piece, key)
        if kept and stands(kept[0]["training"], seconds):
            figures, tensors = kept
            decoder = new_decoder(evidence, seed=0)
            images_NCHW = tensors.pop("images")
            decoder.load_state_dict(tensors)
            decoder.eval()
        else:
            if seconds <= 0 or (attack == "gan" and plain is None):
                self._skip(
                    piece, "no time was left" if seconds <= 0 else "it goes on from the decoder, which was skipped"
                )
                return None
            report, derived = self._reporter(f"{evidence.name} {attack}"), self._derived(piece)
            training = seconds * (1 - _ADAPT_SHARE)
            others: dict[str, object] = {}
            if plain is None:
                decoder, fitted = train_decoder(evidence, seconds=training, seed=derived, report=report)
            else:
                decoder, fitted = train_gan(
                    evidence, plain, judge.distance, seconds=training, seed=derived, report=report
                )
                others["nearer_than_decoder"] = fitted.score > 0
            images_NCHW = reconstruct_images(decoder, evidence.test_features_NF)
            adapted, learned = self._adapted(
                evidence, decoder, images_NCHW, judge.classifier, seconds * _ADAPT_SHARE, piece
            )
            figures = {
                **judge.figures(torch.arange(len(images_NCHW)), images_NCHW),
                "sensitive_balanced_accuracy_adapted": adapted,
                "training": training_of(fitted.epochs / fitted.planned, seconds, adapted_share=learned, **others),
            }
            self.store.save(piece, key, figures, {**decoder.state_dict(), "images": images_NCHW})
        self._note_cut(piece, figures["training"])
        found[evidence.name][attack] = Reconstructions(torch.arange(len(images_NCHW)), images_NCHW, figures)
        return decoder

    def _adapted(
        self,
        evidence: RunEvidence,
        decoder: Decoder,
        images_NCHW: Tensor,
        classifier: Classifier,
        seconds: float,
        piece: str,
    ) -> tuple[dict[str, float], float]:
        """Balanced accuracy of the adapted classifier on each sensitive question.

        Also returns the share of its training that there was time for.
        """
        train, val = evidence.train, evidence.val
        generator = torch.Generator().manual_seed(self._derived(piece, "val"))
        released_NF, _ = fresh_pairs(evidence, val, torch.arange(len(val)), generator)
        val_images = reconstruct_images(decoder, released_NF)

        def reconstructed(rows: Tensor, generator: torch.Generator) -> Tensor:
            return to_image(reconstruct_images(decoder, fresh_pairs(evidence, train, rows, generator)[0]))

        val_labels_NQ = labels_of(self.questions, val.desired, val.labels)
        epochs = max(_ADAPT_EPOCHS, -(-_LEAST_ADAPT_STEPS * BATCH // len(train)))
        adapted, fitted = classifier.adapted(
            LabelledImages(
                reconstructed, labels_of(self.questions, train.desired, train.labels), val_images, val_labels_NQ
            ),
            replace(recipe_of(len(train), epochs=epochs, seconds=seconds, lr=ADAPT_LR), order=train.order),
            seed=self._derived(piece, "adapted"),
            report=self._reporter(f"{piece.replace('-', ' ')}: classifier adapts"),
        )
        found = tuned(adapted, val_images, val_labels_NQ, images_NCHW, self.labels_NQ)
        return found, round(min(1.0, fitted.epochs / fitted.planned), 3)

    def _optimised(
        self,
        evidence: RunEvidence,
        decoder: Decoder | None,
        judge: Judge,
        found: dict[str, dict[str, Reconstructions]],
    ) -> None:
        """Optimise through the white-box front: a subset of the protected images, and as many val images.

        The val images tune the classifier's thresholds for the protected images.
        """
        piece = f"{evidence.name}-white-box"
        made_with = (weights_key(judge.classifier.network), weights_key(decoder), judge.distance.name)
        key = key_of(evidence, "white-box", self.seed, self.questions, made_with)
        seconds = self._seconds("white-box")
        kept = self.store.load(piece, key)
        if kept and stands(kept[0]["training"], seconds):
            figures, images_MCHW = kept[0], kept[1]["images"]
        else:
            if seconds <= 0:
                self._skip(piece, "no time was left")
                return
            derived = self._derived(piece)
            weights = choose_weights(
                evidence,
                decoder,
                seconds=seconds * _CHOICE_SHARE,
                seed=derived,
                report=self._reporter(f"{evidence.name} white-box: weights"),
            )
            generator = torch.Generator().manual_seed(self._derived(piece, "val"))
            own = torch.randperm(len(evidence.val), generator=generator)[: len(self.subset)]
            released_NF = evidence.draw(evidence.val, generator, own, view=0)
            both_NCHW, done = invert(
                evidence,
                torch.cat([evidence.test_features_NF[self.subset], released_NF]),
                decoder,
                weights,
                Limits(seconds * (1 - _CHOICE_SHARE), STEPS),
                seed=derived,
                report=self._reporter(f"{evidence.name} white-box"),
            )
            images_MCHW, val_images = both_NCHW.split([len(self.subset), len(own)])
            val_labels_NQ = labels_of(
                self.questions,
                evidence.val.desired[own],
                {name: labels[own] for name, labels in evidence.val.labels.items()},
            )
            figures = {
                **judge.figures(self.subset, images_MCHW),
                "sensitive_balanced_accuracy_adapted": tuned(
                    judge.classifier, val_images, val_labels_NQ, images_MCHW, self.labels_NQ[self.subset]
                ),
                "training": training_of(done, seconds, weights=asdict(weights)),
            }
            self.store.save(piece, key, figures, {"images": images_MCHW})
        self._note_cut(piece, figures["training"])
        found[evidence.name]["white_box"] = Reconstructions(self.subset, images_MCHW, figures)

    # -- results

    def _write_samples(self, distance: Distance, found: Mapping[str, Mapping[str, Reconstructions]]) -> None:
        if not len(self.sample):
            return
        evidence, hidden = self.evidences[0], [question for question in self.questions if not question.desired]
        sensitive = hidden[0].name if hidden else None
        tensors = {
            "ids": evidence.test_ids[self.sample],
            "originals": as_pictures(self.originals_NCHW[self.sample]),
            "desired": self.labels_NQ[self.sample, 0],
            "sensitive": evidence.test_labels[sensitive][self.sample]
            if sensitive
            else torch.full((len(self.sample),), -1),
        }
        attacks: dict[str, str] = {}
        for name in ("defended", "undefended"):
            of = found[evidence.name] if len(self.evidences) == 1 else found[name]
            if not of or (name == "undefended" and not self.compared):
                continue
            distances = {attack: self._distance_on_subset(distance, images) for attack, images in of.items()}
            attacks[name] = min(distances, key=distances.__getitem__)
            tensors[name] = as_pictures(at(of[attacks[name]], self.sample))
        task = evidence.task
        notes = {
            "network": evidence.config.model.name,
            "attacks": attacks,
            "desired": {
                "column": task.columns[0],
                "names": list(task.names) if task.kind == "single" else ["no", "yes"],
            },
            "sensitive": {"column": sensitive, "names": list(evidence.classes[sensitive])} if sensitive else None,
        }
        write_samples(self.store.folder / "samples.safetensors", tensors, notes)

    def _distance_on_subset(self, distance: Distance, images: Reconstructions) -> float:
        return finite_mean(distance(to_image(self.originals_NCHW[self.subset]), to_image(at(images, self.subset))))

    def _block(self, found: Mapping[str, Mapping[str, Reconstructions]]) -> dict[str, object]:
        block: dict[str, object] = {}
        for attack, images in found[self.evidences[0].name].items():
            other = found[self.evidences[-1].name].get(attack) if self.compared else None
            block[attack] = {**images.figures, "undefended": dict(other.figures) if other else None}
        return block

    # -- time, randomness, progress

    def _seconds(self, kind: str) -> float:
        """The seconds that the next piece of this kind may take."""
        left = sum(_SHARES[piece] for piece in self.pieces)
        judging = self.judging * len(self.pieces)
        self.pieces.remove(kind)
        return max(0.0, self.budget.remaining() - judging) * (_SHARES[kind] / left)

    def _derived(self, *purpose: str) -> int:
        return derive_seed(self.seed, "audit", "reconstruction", *purpose)

    def _reporter(self, phase: str) -> Report:
        return lambda done, total, text: self.monitor.update(Update("audit", phase, done, total, text))

    def _skip(self, piece: str, reason: str) -> None:
        self.skipped.append(Skipped(attack=f"reconstruction {piece}", reason=reason))

    def _note_cut(self, piece: str, training: Mapping[str, Any]) -> None:
        """List a piece under ``skipped`` if it had less than half of its training, since it is then weak."""
        if (share := least_share(training)) < 0.5:
            self._skip(piece, f"cut short by the time budget at {share:.0%} of its training; it counts")
