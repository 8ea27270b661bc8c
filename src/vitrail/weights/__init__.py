"""Weights on disk."""

from ._native import WeightsError as WeightsError, load as load, save as save
