"""SmolLM2-135M-Instruct in numpy: an open vocabulary, with images as EfficientNet-Lite0 label mixtures."""
