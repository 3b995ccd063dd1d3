"""A model's config: all that can be known of it before its weights load."""

import torch
from transformers import AutoConfig, PretrainedConfig

from recipes.schema import Base, Expert


def load_config(model: Expert | Base) -> PretrainedConfig:
    """The config of a recipe's model. Raises ValueError, in one line, where there is none."""
    remote = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        return AutoConfig.from_pretrained(model.model, **remote)
    except OSError as error:
        raise ValueError(f"{model.model}: {str(error).splitlines()[0]}") from None


def weights_dtype(model: Expert | Base, config: PretrainedConfig) -> torch.dtype:
    """The type a recipe's model is loaded in; `auto` is the one it is stored in."""
    dtype = (config.dtype or torch.float32) if model.dtype == "auto" else model.dtype
    return dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
