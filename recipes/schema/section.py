"""What every section of a recipe is: keys, each with its default and what it means.

Keys without a default have none because no paper or measurement gives one.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


class Section(BaseModel):
    """A part of a recipe: frozen, no unknown keys, no conversion between types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
