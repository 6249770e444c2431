"""Linear layers on 8 and 4 bits whose outlier channels stay in 16 (OSC, arXiv 2604.12782).

`reference` is the meaning, in plain PyTorch; `formats` and `packed` are its parts. The other
modules are backends: the same functions for one kind of machine each.
"""
