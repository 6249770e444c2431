"""Attention whose row maximum is estimated once and then frozen (VFA), and its sparse form (VSA).

`reference` is the meaning, in plain PyTorch; `formats`, `operands`, `estimates` and `guard` are its
parts. The other modules are backends: the same function for one kind of machine each.
"""
