"""Similarity heads of other methods as models that learn: head only, one a file.

What these methods change inside CLIP (TS2-Net's token shift and selection, CenterCLIP's
clusters, CLIP-ViP's proxies, Prompt Switch's prompts) is not here.
"""
