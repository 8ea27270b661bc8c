"""Layers that know nothing of images: what all parts are made of."""

from ._activation import ACTIVATIONS as ACTIVATIONS, ActivationName as ActivationName
from ._arrays import (
    count_parameters as count_parameters,
    digest_array as digest_array,
    digest_arrays as digest_arrays,
    gather_arrays as gather_arrays,
    is_in_part as is_in_part,
    is_shape as is_shape,
    keep_rows as keep_rows,
    list_arrays as list_arrays,
    name_leaf as name_leaf,
)
from ._attention import Attention as Attention, choose_heads as choose_heads
from ._conv import Conv as Conv, Upscale as Upscale
from ._draw import draw_normal as draw_normal, draw_uniform as draw_uniform, split_key as split_key
from ._drop import (
    Dropout as Dropout,
    drop_branch as drop_branch,
    drop_elements as drop_elements,
)
from ._dtype import at_least_float32 as at_least_float32
from ._execution import AttentionStrategy as AttentionStrategy, Execution as Execution
from ._in_attention import InAttention as InAttention, split_blocks as split_blocks
from ._init import (
    BIG_VISION as BIG_VISION,
    INITS as INITS,
    TRUNC_NORMAL as TRUNC_NORMAL,
    Init as Init,
    Initializer as Initializer,
    InitName as InitName,
    draw_separately as draw_separately,
)
from ._intermediates import (
    INTERMEDIATES as INTERMEDIATES,
    NO_TAP as NO_TAP,
    WITHIN_ATTENTION as WITHIN_ATTENTION,
    Edit as Edit,
    Intermediate as Intermediate,
    Tap as Tap,
    check_intermediates as check_intermediates,
)
from ._labels import (
    ParameterKind as ParameterKind,
    ParameterKinds as ParameterKinds,
    ParameterLabel as ParameterLabel,
    parameter_labels as parameter_labels,
)
from ._linear import Linear as Linear
from ._lora import AdaptedLinear as AdaptedLinear, Adapter as Adapter
from ._mlp import MLP as MLP
from ._norm import (
    FrozenBatchNorm as FrozenBatchNorm,
    LayerNorm as LayerNorm,
    Norm as Norm,
    NormName as NormName,
    RMSNorm as RMSNorm,
    make_norm as make_norm,
    normalise as normalise,
    to_dtype as to_dtype,
    to_jax as to_jax,
)
from ._relative_bias import RelativeBias as RelativeBias
from ._remat import (
    PRODUCT as PRODUCT,
    REMAT_POLICIES as REMAT_POLICIES,
    Remat as Remat,
    checkpoint_name as checkpoint_name,
    prevent_fusion as prevent_fusion,
)
from ._resample import (
    ResizeRule as ResizeRule,
    make_interpolation as make_interpolation,
    resample as resample,
    resample_at as resample_at,
    resize_kernel as resize_kernel,
    weigh_axes as weigh_axes,
)
from ._rotation import Rotation as Rotation
from ._softmax import attention_weights as attention_weights, masked_softmax as masked_softmax
