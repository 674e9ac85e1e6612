"""SmolLM2's forward pass as its paper writes it: no cache, no tiles, one sequence, straight from GGUF.

It shares no line with the engine: other weights in memory (dequantised here, [out, in]), other rotary code
(complex numbers), whole sequences in float64 sums where numpy allows.
"""

import numpy as np
from gguf.gguf_reader import GGUFReader
from gguf.quants import dequantize

from stages.smollm2.assets import language_file

LAYERS, HEADS, KV_HEADS, HEAD_DIM, EPS, THETA = 30, 9, 3, 64, 1e-5, 1e5


class PlainLlama:
    def __init__(self):
        reader = GGUFReader(language_file())
        self._w = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
        self.embedding = self._w["token_embd.weight"]

    def logits(self, rows):
        """Logits behind the last of input embeddings [tokens, 576]."""
        x = np.asarray(rows, np.float32)
        for layer in range(LAYERS):
            x = x + self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm"))
            h = self._norm(x, f"blk.{layer}.ffn_norm")
            gate = self._project(h, f"blk.{layer}.ffn_gate")
            up = self._project(h, f"blk.{layer}.ffn_up")
            x = x + self._project(gate / (1 + np.exp(-gate)) * up, f"blk.{layer}.ffn_down")
        return self._norm(x[-1:], "output_norm")[0] @ self.embedding.T

    def greedy(self, rows, count, eos=2):
        """Up to `count` token ids behind the rows, the whole sequence computed anew for each."""
        out = []
        while len(out) < count:
            token = int(np.argmax(self.logits(rows)))
            if token == eos:
                break
            out.append(token)
            rows = np.concatenate([rows, self.embedding[[token]]])
        return out

    def _attention(self, layer, h):
        tokens = len(h)
        q = self._rotated(h, f"blk.{layer}.attn_q", HEADS)
        k = self._rotated(h, f"blk.{layer}.attn_k", KV_HEADS)
        v = self._project(h, f"blk.{layer}.attn_v").reshape(tokens, KV_HEADS, HEAD_DIM)
        mixed = np.empty((tokens, HEADS, HEAD_DIM), np.float32)
        future = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
        for head in range(HEADS):
            shared = head // (HEADS // KV_HEADS)
            scores = q[:, head] @ k[:, shared].T / np.sqrt(HEAD_DIM) + future
            weight = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, head] = weight / weight.sum(axis=1, keepdims=True) @ v[:, shared]
        return self._project(mixed.reshape(tokens, -1), f"blk.{layer}.attn_output")

    def _rotated(self, h, name, heads):
        flat = self._project(h, name).reshape(len(h), heads, HEAD_DIM // 2, 2)
        turns = np.arange(len(h))[:, None] * THETA ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        rotated = (flat[..., 0] + 1j * flat[..., 1]) * np.exp(1j * turns)[:, None]
        return np.stack([rotated.real, rotated.imag], -1).reshape(len(h), heads, HEAD_DIM).astype(np.float32)

    def _project(self, x, name):
        return x @ self._w[f"{name}.weight"].T

    def _norm(self, x, name):
        mean_square = np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True)
        return (x / np.sqrt(mean_square + EPS)).astype(np.float32) * self._w[f"{name}.weight"]
