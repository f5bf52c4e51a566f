"""A decoder stack that runs all layers with their LoRA adapter as one autograd node, packed rows only.

The adapter rides inside the frozen product. Weights that read the same input are stacked into one
matrix with B in extra columns and the scaled A in extra rows; an input row carries A·x in as many
extra columns:

    forward    [x | sAx] · [W | B]ᵀ = Wx + s·B·A·x          backward    [dy | Bᵀdy] · [W ; sA] = dx

so base and adapter are one product in both directions. Dropout masks are a function of seed, token
and column: drawn again in backward, they cost no memory, and a step that is split otherwise or done
again has the same ones.

    engine        what the trainer calls: a micro-batch in, the sum of its losses out
    device_batch  a micro-batch on the device, made ahead of its turn if the trainer asks for it
    restrictions  which models, adapters and devices can run here; everything else runs elsewhere
    stack         all layers, kept or recomputed       head     final norm and loss, in chunks
    layer         one layer, forward and backward      projection   the stacked matrix
    architecture  what a family of models does otherwise than Llama
    attention, rotary, dropout                         what a layer needs beside its products
    adapter_sync  copies the adapter's parameters into the matrices before every micro-batch
    ops           small operations: `kernels` in Triton on a GPU, `reference_ops` in torch elsewhere

The room knows torch and the shape of PEFT's modules. It loads, decides and writes nothing.
"""
