"""The systems that stand on a Vision Transformer, each with its image model in the field `image`."""

from ._dense import Dense as Dense, DenseConfig as DenseConfig, make_dense as make_dense
from ._mae import MAEDecoder as MAEDecoder, MaskedAutoencoder as MaskedAutoencoder, Reconstruction as Reconstruction
from ._mae_config import MAEConfig as MAEConfig
