"""Sequence models: trained with torch, served with onnxruntime.

What serves a bundle (`runtime`, `spec`, `scaling`, `sequences`, `config`) never imports torch.
"""
