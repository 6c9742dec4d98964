"""Sequence models: trained with torch, served with onnxruntime.

What serves a bundle never imports torch:

config        settings of every model and of the training loop
scaling       rows of features in, inputs out
sequences     which rows an answer looks at, in batch and bar by bar
mixture       members' outputs in, one answer out
spec          what serving needs beside the network, on disk
batch         whole spans at once, whatever runs the network
session, stream, runtime   the network in onnxruntime

With torch:

blocks        the base of all networks, their weights and masks
transformer, lstm, tft (with tft_blocks)   the networks
losses, optimiser, loop, checkpoint        the one training loop
fit           a training table in, a fitted expert out
export        a fitted network as ONNX
"""
