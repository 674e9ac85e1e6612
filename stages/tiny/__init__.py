"""`tiny`: a 1.16 M parameter vision-language model trained from scratch, for laptops and tests.

A ViT reads a 48×48 RGB image as nine soft tokens of width 128; a three-layer Llama-style decoder
answers four kinds of questions about it in a closed vocabulary of 37 words.
"""
