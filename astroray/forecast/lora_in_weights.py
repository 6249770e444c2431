"""LoRA by peft whose product is added to the frozen weight before the tokens meet it.

peft puts two narrow products, a dropout and a sum of all tokens beside each projection. With T
tokens and a weight of [O, I], dropout alone draws T I numbers and the narrow products read and
write T (I + O) four times, which on a CPU is more than the product with the weight where I and O
are some tens. Here W + s B A is formed once a step, O I numbers, and the tokens meet it once; its
gradient, that of full fine-tuning, gives those of A and B by two products without T. It is for
networks whose weights are small beside their tokens. There is no dropout of the input of A alone,
since the tokens are not multiplied by A alone; peft takes none by default either.
"""

from typing import cast

import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

__all__ = ["put_in_weights"]


def put_in_weights(config: LoraConfig) -> None:
    """Makes peft build the layers of this module; names, first weights and merging stay peft's.

    Raises ValueError where the configuration has a dropout.
    """
    if config.lora_dropout:
        raise ValueError(f"lora_dropout is {config.lora_dropout}, expected 0 for LoRA in weights")
    config._register_custom_module({nn.Linear: _InWeights})


class _InWeights(Linear):
    """A projection with its LoRA; peft's but for the order of its products."""

    def forward(self, tokens_BKD: Tensor) -> Tensor:
        base = cast(nn.Linear, self.get_base_layer())
        if self.merged:
            return base(tokens_BKD)
        (name,) = self.active_adapters
        weight_OI = base.weight + self.get_delta_weight(name)
        return F.linear(tokens_BKD, weight_OI, base.bias)
