"""Names of the files in the cache of this model."""

TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
VISION_FILE = "vision.npz"
