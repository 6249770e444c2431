"""Folders of tiny language models with random weights, as transformers writes them.

Functions import it: all tests are collected in each process of `make test`, and it loads long.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = (
    "Star: temperature unknown K, log g unknown, metallicity unknown, radius unknown solar, "
    "rotation 12.5 d. Flares so far: 2 in 160 d, 0.0132 a day; lately 0.03 over 3 d, 0.1 over "
    "10 d, 1 over 100 d, 3 over 300 d; 0.015 in this season; 1 in 10.46 d; the last 1.25 d ago; "
    "mean wait 80 d, mean duration 0.1 d, mean size 1.23, largest 2.5, alignment with rotation "
    "-0.457. Last flares (days ago, days long, size): 1.25 0.1 2.5; 81.3 0.0631 -0.0321. Flux:"
)
SIZE = {"vocab_size": 500, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def write_language_model(folder, kind="llama", *, context=1024, seed=0):
    """A model of two layers and its tokenizer in `folder`; returns its path."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )
    from transformers.utils.logging import disable_progress_bar

    torch.manual_seed(seed)
    modern = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        **SIZE,
    }
    made = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**modern)),
        "qwen": lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=8, **modern)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=context, **SIZE)
        ),
    }
    disable_progress_bar()
    made[kind]().save_pretrained(folder)
    write_tokenizer(folder)
    return str(folder)


def write_tokenizer(folder):
    """Pairs of bytes learnt from a prompt."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE["vocab_size"],
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")
    fast.save_pretrained(folder)
