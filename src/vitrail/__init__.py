"""vitrail: Vision Transformers in JAX and Equinox, a picture assembled from small panes."""

import sys as _sys
import typing as _typing
from importlib import import_module as _import_module

__version__ = "0.1.0"  # the build reads it from here, and a copy that is not installed has no metadata

from ._hook import install as _install
from ._typecheck import CallError as CallError, pause as _pause, start as _start

# Every signature of the package is checked when it is called, at trace time under jit. The hook stays for the modules
# that are imported later, and touches no other package.
_install()

from ._extras import MissingExtraError as MissingExtraError
from ._keep import KEEP as KEEP, Keep as Keep
from ._patched import PatchedImage as PatchedImage, pack as pack
from ._registry import (
    Entry as Entry,
    OptionError as OptionError,
    PluginError as PluginError,
    Registry as Registry,
    UnknownPartError as UnknownPartError,
)
from ._spec import PartSpec as PartSpec
from ._tokens import Tokens as Tokens

_start()

if _typing.TYPE_CHECKING:
    from . import (
        cli as cli,
        dense as dense,
        deploy as deploy,
        encoder as encoder,
        exported as exported,
        head as head,
        images as images,
        lab as lab,
        model as model,
        nn as nn,
        patch as patch,
        pool as pool,
        position as position,
        show as show,
        systems as systems,
        testing as testing,
        train as train,
        weights as weights,
    )
    from .dense import (
        READOUTS as READOUTS,
        AbstractDenseReadout as AbstractDenseReadout,
        DenseContext as DenseContext,
        DenseReadoutFactory as DenseReadoutFactory,
        DPTReadout as DPTReadout,
        LinearReadout as LinearReadout,
    )
    from .deploy import export as export
    from .encoder import (
        Block as Block,
        Blocks as Blocks,
        Encoder as Encoder,
        EncoderOptions as EncoderOptions,
        EncoderSize as EncoderSize,
        Neck as Neck,
        RelativePosition as RelativePosition,
        WindowedEncoder as WindowedEncoder,
        WindowOptions as WindowOptions,
    )
    from .exported import (
        ExportCard as ExportCard,
        Exported as Exported,
        ExportedFunction as ExportedFunction,
        ExportError as ExportError,
        load_exported as load_exported,
    )
    from .head import (
        HEADS as HEADS,
        AbstractHead as AbstractHead,
        CosineHead as CosineHead,
        DistilledHead as DistilledHead,
        HeadContext as HeadContext,
        HeadFactory as HeadFactory,
        LinearHead as LinearHead,
        MLPHead as MLPHead,
        NoHead as NoHead,
        ProjectionHead as ProjectionHead,
    )
    from .images import Preprocess as Preprocess
    from .lab import compare as compare
    from .model import (
        PRESETS as PRESETS,
        Backbone as Backbone,
        CompiledViT as CompiledViT,
        Readout as Readout,
        ViT as ViT,
        ViTConfig as ViTConfig,
        compile as compile,
        lora as lora,
        merge as merge,
        replace as replace,
        vit as vit,
        vit_forward as vit_forward,
    )
    from .nn import (
        ACTIVATIONS as ACTIVATIONS,
        BIG_VISION as BIG_VISION,
        INITS as INITS,
        INTERMEDIATES as INTERMEDIATES,
        MLP as MLP,
        TRUNC_NORMAL as TRUNC_NORMAL,
        ActivationName as ActivationName,
        AdaptedLinear as AdaptedLinear,
        Adapter as Adapter,
        Attention as Attention,
        AttentionStrategy as AttentionStrategy,
        Dropout as Dropout,
        Execution as Execution,
        InAttention as InAttention,
        Init as Init,
        Initializer as Initializer,
        InitName as InitName,
        Intermediate as Intermediate,
        LayerNorm as LayerNorm,
        Linear as Linear,
        ParameterKind as ParameterKind,
        ParameterLabel as ParameterLabel,
        RelativeBias as RelativeBias,
        RMSNorm as RMSNorm,
        Rotation as Rotation,
        parameter_labels as parameter_labels,
    )
    from .patch import (
        PATCHES as PATCHES,
        AbstractPatchEmbed as AbstractPatchEmbed,
        ConvPatchEmbed as ConvPatchEmbed,
        ConvStemPatchEmbed as ConvStemPatchEmbed,
        PatchContext as PatchContext,
        PatchFactory as PatchFactory,
    )
    from .pool import (
        POOLS as POOLS,
        ABMILPool as ABMILPool,
        AbstractGridPool as AbstractGridPool,
        AbstractPool as AbstractPool,
        AbstractWeighingPool as AbstractWeighingPool,
        AIMPool as AIMPool,
        AttentionPool as AttentionPool,
        ClassAttentionPool as ClassAttentionPool,
        ClassMeanPool as ClassMeanPool,
        ClassTokenPool as ClassTokenPool,
        GeMPool as GeMPool,
        LogSumExpPool as LogSumExpPool,
        MaxPool as MaxPool,
        MeanMaxPool as MeanMaxPool,
        MeanPool as MeanPool,
        NoPool as NoPool,
        PoolContext as PoolContext,
        PoolFactory as PoolFactory,
        SimPool as SimPool,
        SumPool as SumPool,
        TopKPool as TopKPool,
        WeightedPool as WeightedPool,
        read_patches as read_patches,
    )
    from .position import (
        POSITIONS as POSITIONS,
        AbstractPosition as AbstractPosition,
        FactorizedPosition as FactorizedPosition,
        LearnedPosition as LearnedPosition,
        LearnedRotaryPosition as LearnedRotaryPosition,
        MixedRotaryPosition as MixedRotaryPosition,
        NoPosition as NoPosition,
        PositionContext as PositionContext,
        PositionFactory as PositionFactory,
        RelativeBiasPosition as RelativeBiasPosition,
        RotaryPosition as RotaryPosition,
        SinCos2DPosition as SinCos2DPosition,
    )
    from .systems import (
        DINO as DINO,
        TEMPLATES as TEMPLATES,
        Dense as Dense,
        DenseConfig as DenseConfig,
        DINOConfig as DINOConfig,
        EmbeddedImage as EmbeddedImage,
        FoundMask as FoundMask,
        ImageText as ImageText,
        ImageTextConfig as ImageTextConfig,
        MAEConfig as MAEConfig,
        MAEDecoder as MAEDecoder,
        MaskDecoder as MaskDecoder,
        MaskedAutoencoder as MaskedAutoencoder,
        MaskSearch as MaskSearch,
        PromptEncoder as PromptEncoder,
        Reconstruction as Reconstruction,
        SegmentAnything as SegmentAnything,
        SegmentAnythingConfig as SegmentAnythingConfig,
        Segmentation as Segmentation,
        TextConfig as TextConfig,
        TextTower as TextTower,
        Tokenizer as Tokenizer,
        TokenizerConfig as TokenizerConfig,
        find_masks as find_masks,
        make_dense as make_dense,
        read_tokenizer as read_tokenizer,
        zero_shot as zero_shot,
    )
    from .train import knn as knn
    from .weights import (
        CheckpointError as CheckpointError,
        Conversion as Conversion,
        ModelCard as ModelCard,
        PublishedModel as PublishedModel,
        Verification as Verification,
        WritableLayout as WritableLayout,
        convert as convert,
        convert_torch as convert_torch,
        from_hub as from_hub,
        list_models as list_models,
        load as load,
        load_adapters as load_adapters,
        model_card as model_card,
        push_to_hub as push_to_hub,
        save as save,
        save_adapters as save_adapters,
        verify as verify,
    )
else:
    from ._later import LATER as _LATER, ROOMS as _ROOMS

    def __getattr__(name: str) -> object:
        if name in _ROOMS:
            with _pause():
                return _import_module(f".{name}", __name__)
        if name not in _LATER:
            # Python adds what was meant.
            raise AttributeError(f"module 'vitrail' has no attribute {name!r}", name=name, obj=_sys.modules[__name__])
        with _pause():
            room = _import_module(f".{_LATER[name]}", __name__)
        return getattr(room, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER, *_ROOMS})
