"""Evaluates one readout: searches its learning rate, trains it, and tests it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Integer

from ..images import Dataset, hold_out
from ..model import Readout, ViT
from ..nn import count_parameters
from ..pool import AbstractWeighingPool
from ..train import rank_by_neighbours
from ._candidates import PoolChoice
from ._cost import measure_readout
from ._options import ProbeOptions
from ._probe import (
    Probe,
    Standard,
    Trained,
    compute_features,
    compute_logits,
    draw_order,
    is_settled,
    make_probe,
    train_probes,
)
from ._rows import Row
from ._tokens import LayerTokens

_HELD_OUT: Final = 0.2
_MAX_HELD_OUT: Final = 2000
_ENOUGH: Final = 500
"""So many held-out images tell rates apart; fewer are drawn several times."""
_FEW_BATCH: Final = 32
_FEW_STEPS: Final = 100
_FEW_EPOCHS: Final = 10
Report = Callable[[str, int, int], object]
"""Is called with what is done, how many steps of it are done, and of how many."""


class Trainer:
    """Trains one pool, each time with a fresh linear head, on the tokens of one layer."""

    def __init__(
        self, model: ViT, data: Dataset, stored: LayerTokens, choice: PoolChoice, options: ProbeOptions, report: Report
    ):
        """**Arguments:** what the results depend on, and a function that is called with the progress."""
        self._model, self._data, self._stored, self._choice = model, data, stored, choice
        self._options, self._report = options, report
        self._features: dict[int, Float32[np.ndarray, "images features"]] = {}
        readout = self.make_readout(0)
        self.is_settled = is_settled(readout, stored.form, stored.train[0])
        """Whether the pool is computed once, and only the head is trained."""
        self.test_features = compute_features(readout, stored.test, stored.form) if self.is_settled else None
        """What the pool returns for all test images, if it is computed once."""

    def make_readout(self, seed: int) -> Readout:
        """A fresh readout."""
        key = jax.random.split(jax.random.key(seed))[0]
        return make_probe(self._model.config, self._choice, len(self._data.classes), key=key)

    def compute_features(self, seed: int) -> Float32[np.ndarray, "images features"]:
        """What the fresh pool of a seed returns for all training images."""
        seed = 0 if self.is_settled else seed
        if seed not in self._features:
            self._features[seed] = compute_features(self.make_readout(seed), self._stored.train, self._stored.form)
        return self._features[seed]

    def train(
        self,
        doing: str,
        seeds: Sequence[int],
        which: Sequence[Int[np.ndarray, " images"]],
        rates: Sequence[float],
        steps: int,
        batch_size: int,
    ) -> Trained:
        """Trains a readout of each seed on the training images `which`, with each rate."""
        inputs = self.compute_features(0) if self.is_settled else self._stored.train
        form = None if self.is_settled else self._stored.form
        probes = [
            Probe(
                self.make_readout(seed) if form else self.make_readout(seed).head,
                Standard(self.compute_features(seed)[images]),
                form,
            )
            for seed, images in zip(seeds, which, strict=True)
        ]
        orders = np.stack([draw_order(place, images, steps, batch_size) for place, images in enumerate(which)])
        return train_probes(
            probes,
            rates,
            inputs,
            self._data.train.labels,
            orders,
            weight_decay=self._options.weight_decay,
            seed=0,
            report=lambda done, total: self._report(doing, done, total),
        )

    def classify(
        self, probe: Probe, which: Int[np.ndarray, " chosen"] | None = None
    ) -> Float32[np.ndarray, "images classes"]:
        """The logits of training images, or for `None` of all test images."""
        if which is not None:
            return compute_logits(probe, self.compute_features(0) if self.is_settled else self._stored.train, which)
        inputs = self._stored.test if self.test_features is None else self.test_features
        return compute_logits(probe, inputs, np.arange(len(inputs)))


def evaluate_cell(
    model: ViT,
    data: Dataset,
    stored: LayerTokens,
    row: Callable[..., Row],
    choice: PoolChoice,
    options: ProbeOptions,
    map_images: tuple[int, ...],
    report: Report,
) -> Row:
    """Searches, trains and tests a readout on the tokens of one layer. `row` makes a row with what it is of."""
    trainer = Trainer(model, data, stored, choice, options, report)
    images, labels = np.arange(len(data.train)), data.train.labels
    rate = search_rate(trainer, labels, options)
    seeds = range(options.seeds)
    steps = options.count_steps(len(images))
    trained = trainer.train("training", seeds, [images] * options.seeds, [rate], steps, options.batch_size)
    _check_finite(trained, rate)
    runs = [probes[0] for probes in trained.probes]
    correct = np.stack([np.argmax(trainer.classify(probe), axis=1) == data.test.labels for probe in runs])
    part = runs[0].part
    readout = part if isinstance(part, Readout) else dataclasses.replace(trainer.make_readout(0), head=part)
    return row(
        correct=correct,
        learning_rate=rate,
        few_shot=measure_few_shot(trainer, data, rate, options),
        knn_accuracy=_measure_knn(trainer, data, options.neighbours),
        pool_parameters=count_parameters(readout.pool),
        head_parameters=count_parameters(readout.head),
        readout_milliseconds=measure_readout(Probe(readout, runs[0].standard, stored.form), stored.test),
        needs_class_token=readout.pool.needs_class_token,
        maps=_compute_maps(readout.pool, stored, map_images),
    )


def search_rate(trainer: Trainer, labels: Integer[np.ndarray, " images"], options: ProbeOptions) -> float:
    """The learning rate whose readout classifies most of held-out training images; of equal ones the one with the
    lower loss. The middle one if no class has two images, so that none can be held out."""
    rates = sorted(options.learning_rates)
    splits = [_split(labels, seed) for seed in range(options.seeds)]
    if len(rates) == 1 or splits[0] is None:
        return rates[len(rates) // 2]
    masks = [mask for mask in splits if mask is not None]
    masks = masks[:1] if masks[0].sum() >= _ENOUGH else masks
    learned = [np.flatnonzero(~mask) for mask in masks]
    steps = options.count_search_steps(len(labels))
    trained = trainer.train("search", [0] * len(masks), learned, rates, steps, options.batch_size)
    scores: list[tuple[float, float]] = []
    for place in range(len(rates)):
        hits, losses = 0, 0.0
        for probes, finite, mask in zip(trained.probes, trained.finite, masks, strict=True):
            if not finite[place]:
                hits, losses = -1, np.inf
                break
            which = np.flatnonzero(mask)
            logits = trainer.classify(probes[place], which).astype(np.float64)
            chosen = logits[np.arange(len(which)), labels[which]]
            top = logits.max(axis=1)
            hits += int(np.sum(np.argmax(logits, axis=1) == labels[which]))
            losses += float(np.sum(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - chosen))
        scores.append((-hits, losses))
    return rates[min(range(len(rates)), key=scores.__getitem__)]


def _split(labels: Integer[np.ndarray, " images"], seed: int) -> Bool[np.ndarray, " images"] | None:
    """Which training images are held out for the search; `None` if each class has one."""
    several = np.bincount(labels)[labels] > 1
    if not several.any():
        return None
    mask = np.zeros(len(labels), bool)
    mask[several] = hold_out(labels[several], seed=seed, share=min(_HELD_OUT, _MAX_HELD_OUT / len(labels)))
    return mask


def measure_few_shot(
    trainer: Trainer, data: Dataset, rate: float, options: ProbeOptions
) -> dict[int, tuple[float, ...]]:
    """For each number of images of a class that all classes have, the accuracy of each draw."""
    labels, classes = data.train.labels, len(data.classes)
    found: dict[int, tuple[float, ...]] = {}
    for shots in options.shots:
        if shots > np.bincount(labels, minlength=classes).min():
            continue
        drawn = [draw_images(labels, classes, shots, draw) for draw in range(options.draws)]
        batch_size = min(options.batch_size, max(_FEW_BATCH, classes))
        steps = max(_FEW_STEPS, -(-_FEW_EPOCHS * len(drawn[0]) // batch_size))
        # A batch is as large for each number, so that a step is compiled once: all images are repeated in it.
        drawn = [np.tile(which, -(-batch_size // len(which))) for which in drawn]
        trained = trainer.train(f"{shots} of each class", range(options.draws), drawn, [rate], steps, batch_size)
        _check_finite(trained, rate)
        hits = [np.argmax(trainer.classify(probes[0]), axis=1) == data.test.labels for probes in trained.probes]
        found[shots] = tuple(round(float(hit.mean()), 6) for hit in hits)
    return found


def draw_images(
    labels: Integer[np.ndarray, " images"], classes: int, shots: int, draw: int
) -> Int[np.ndarray, " chosen"]:
    """Draws so many images of each class. The same for all that is compared."""
    random = np.random.RandomState(draw)  # whose numbers no version of NumPy changes
    order = random.permutation(len(labels))
    return np.concatenate([order[labels[order] == label][:shots] for label in range(classes)])


def _check_finite(trained: Trained, rate: float) -> None:
    if not trained.finite.all():
        raise FloatingPointError(f"the loss is not finite with the learning rate {rate:g}: pass lower learning_rates")


def _measure_knn(trainer: Trainer, data: Dataset, neighbours: int) -> float | None:
    """The accuracy of nearest neighbours; `None` for a pool with parameters, which would be untrained."""
    if trainer.test_features is None:
        return None
    labels = data.train.labels
    numbers = (min(neighbours, len(labels)),)
    ranked = rank_by_neighbours(
        trainer.compute_features(0), labels, trainer.test_features, len(data.classes), neighbours=numbers
    )
    return float((ranked[0, :, 0] == data.test.labels).mean())


def _compute_maps(
    pool: Any, stored: LayerTokens, map_images: tuple[int, ...]
) -> Float[np.ndarray, "images rows cols"] | None:
    if not isinstance(pool, AbstractWeighingPool):
        return None
    maps: list[Float[Array, "heads patches"]] = [
        pool.weights(stored.form.divide(jax.numpy.asarray(stored.test[index]))) for index in map_images
    ]
    return np.stack([np.asarray(m, np.float64).mean(axis=0).round(6).reshape(stored.form.grid) for m in maps])
