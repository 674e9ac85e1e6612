"""Demand: the work per second that each stage is about to get, from what is offered upstream of it.

Units are those of the stages: encode image tokens, prefill prompt tokens that no cache supplied, decode
output tokens; flows between stages are in image tokens (encode to prefill) and requests (prefill to
decode). Offered rates count each request once, before admission; so a queue or a refusal hides nothing.
Each function is monotone in each of its rates and backlogs.
"""


def backlog_ahead(
    waiting_units: float, inflow: float, capacity: float, lead_s: float, queue_s: float
) -> float:
    """Return the backlog by the time that a replica started now would take work.

    q(t + lead) = q + (inflow − capacity) · lead, no less than 0. Admission refuses beyond `queue_s`
    seconds of work, so it grows to `queue_s` · capacity at most.

    Args:
        waiting_units: q now.
        inflow: Units per second.
        capacity: Units per second of all replicas, those on the way included.
        lead_s: Time that a start takes.
        queue_s: See `ControlPolicy`.
    """
    ahead = max(0.0, waiting_units + (inflow - capacity) * lead_s)
    return min(ahead, max(waiting_units, queue_s * capacity))


def encode_demand(image_tokens: float, embedding_hits: float, drain: float) -> float:
    """Return L_E = (1 − h_E) · off_img + q_E / T_drain.

    Args:
        image_tokens: off_img, image tokens offered per second.
        embedding_hits: h_E, fraction that the embedding cache supplies.
        drain: q_E / T_drain, image tokens per second at which the backlog shall go.
    """
    return (1.0 - embedding_hits) * image_tokens + drain


def image_inflow(
    image_tokens: float, embedding_hits: float, encode_load: float, encode_capacity: float
) -> float:
    """Return to_P, the image tokens per second that reach prefill.

    to_P = h_E · off_img + min(L_E, N_E · mu_E): an encoder that drains its backlog surges it, one that is
    too small caps it.
    """
    return embedding_hits * image_tokens + min(encode_load, encode_capacity)


def prefill_demand(text_tokens: float, images: float, kappa: int, prefix_hits: float, drain: float) -> float:
    """Return L_P = (off_txt + kappa · to_P) · (1 − h_KV) + q_P / T_drain.

    Args:
        text_tokens: off_txt, text tokens offered per second.
        images: to_P, image tokens per second that reach prefill.
        kappa: 1 if image tokens also load prefill, 0 if not.
        prefix_hits: h_KV, fraction of prompt tokens that the prefix cache supplies.
        drain: q_P / T_drain.
    """
    return (text_tokens + kappa * images) * (1.0 - prefix_hits) + drain


def request_inflow(requests: float, drain_jobs: float, prefill_capacity: float) -> float:
    """Return to_D = min(rate + n_qP / T_drain, N_P · mu_P / w_P), requests per second that reach decode.

    Args:
        requests: Offered per second.
        drain_jobs: n_qP / T_drain, prompts per second at which prefill's backlog shall go.
        prefill_capacity: N_P · mu_P / w_P, prompts per second that prefill can do.
    """
    return min(requests + drain_jobs, prefill_capacity)


def decode_demand(done: float, inflow: float, output_tokens: float, drain: float) -> float:
    """Return L_D = max(x_D, to_D · E[output tokens]) + q_D / T_drain.

    What decode gets done, x_D, saturates in overload, and what flows in does not.

    Args:
        done: x_D, output tokens per second.
        inflow: to_D, requests per second.
        output_tokens: Mean completion tokens.
        drain: q_D / T_drain.
    """
    return max(done, inflow * output_tokens) + drain
