"""Ways to get a model wrong, to see that each part of it counts. A way is a name,
an edit of the parameters and a context with edited objects."""

import contextlib
import types

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import (gpt_oss, lfm2, mixtral, qwen2_moe, qwen3_5, qwen3_moe, qwen3_next,
                           rope_utils, switch_layers)
from mlx_lm.tuner.lora import LoRALinear

# Blocks with experts: where the router is, and how many it takes.
ROUTERS = {
    qwen3_moe.Qwen3MoeSparseMoeBlock: ("gate", "top_k"),
    qwen2_moe.Qwen2MoeSparseMoeBlock: ("gate", "top_k"),
    mixtral.MixtralSparseMoeBlock: ("gate", "num_experts_per_tok"),
    qwen3_next.Qwen3NextSparseMoeBlock: ("gate", "top_k"),
    gpt_oss.MLPBlock: ("router", "num_experts_per_tok"),
}


# What blocks say goes through these.
OUTPUTS = ("o_proj", "out_proj", "down_proj", "feed_forward.w2")


def named(model):
    return dict(tree_flatten(model.parameters()))


def text_model(model):
    """The model of text in one with a shell for pictures."""
    return getattr(model, "language_model", model)


@contextlib.contextmanager
def changed(things, attribute, value):
    """With an attribute of all things set to something else."""
    before = [getattr(thing, attribute) for thing in things]
    for thing in things:
        setattr(thing, attribute, value)
    yield
    for thing, old in zip(things, before):
        setattr(thing, attribute, old)


class ByHead(nn.Module):
    """A norm of full width, wrongly taken head by head."""

    def __init__(self, norm, heads):
        super().__init__()
        self.norm, self.heads = norm, heads

    def __call__(self, x):
        y = x.reshape(*x.shape[:-1], self.heads, -1)
        y = mx.fast.rms_norm(y, None, self.norm.eps)
        return y.reshape(x.shape) * self.norm.weight


def edit(part, how):
    return lambda all: {k: how(v) if part in k else v for k, v in all.items()}


def edit_last(part, how):
    return lambda all: {k: how(v) if k.endswith(part) else v for k, v in all.items()}


def same(all):
    return all


def less_one(value):
    return value - 1


def broken(model):
    """All ways that are to change what the model answers."""
    if adapted := [m for m in model.modules() if isinstance(m, LoRALinear)]:
        return of_adapter(model, adapted)
    cut = sorted({k.rsplit(".", 1)[0] + "." for k in named(model)
                  if any(part in k for part in OUTPUTS)})
    ways = [(f"without {part}", edit(part, mx.zeros_like), contextlib.nullcontext)
            for part in cut]
    trunk = text_model(model).model
    attentions = [layer.self_attn for layer in model.layers if "self_attn" in layer]
    ways += of_ropes(text_model(model), attentions)
    windows = "sliding_window" if hasattr(trunk, "sliding_window") else "window_size"
    if window := getattr(trunk, windows, None):
        ways += [(f"window {w}", same, lambda w=w: changed([trunk], windows, w))
                 for w in (window - 1, window + 1, None)]
    experts = [m for m in model.modules() if type(m) in ROUTERS]
    if experts:
        top = ROUTERS[type(experts[0])][1]
        mlps = "mlp.experts" if isinstance(experts[0], gpt_oss.MLPBlock) else "switch_mlp"
        ways += [
            ("wrong experts", edit(mlps, lambda v: mx.roll(v, 1, 0)),
             contextlib.nullcontext),
            ("one expert", same, lambda: changed(experts, top, 1)),
        ]
    biases = sorted({".".join(k.split(".")[-2:]) for k in named(model) if k.endswith(".bias")})
    ways += [(f"without {part}", edit_last(part, mx.zeros_like), contextlib.nullcontext)
             for part in biases]
    return ways + OF_FAMILY.get(text_model(model).model_type, lambda m, a: [])(model, attentions)


def of_adapter(model, adapted):
    parts = sorted({".".join(k.split(".")[-3:]) for k in named(model) if k.endswith(".lora_b")})
    return [(f"without {part}", edit(part, mx.zeros_like), contextlib.nullcontext)
            for part in [*parts, ".lora_b"]] + [
        ("scale of 1", same, lambda: changed(adapted, "scale", 1.0))]


def of_ropes(model, attentions):
    ropes = [a.rope for a in attentions]
    plain = [r for r in ropes if isinstance(r, nn.RoPE)]
    ways = []
    if plain:
        ways.append(("rope base", same, lambda: changed(plain, "base", 100.0)))
    if slowed := [r for r in plain if r.scale != 1]:
        ways.append(("rope unscaled", same, lambda: changed(slowed, "scale", 1.0)))
    if scaled := [r for r in ropes if hasattr(r, "_freqs")]:
        dims = 2 * scaled[0]._freqs.size
        args = model.args
        base = getattr(args, "rope_theta", None) or args.rope_parameters["rope_theta"]
        freqs = base ** (mx.arange(0, dims, 2, dtype=mx.float32) / dims)
        ways.append(("rope unscaled", same, lambda: changed(scaled, "_freqs", freqs)))
        kind = scaled[0]
        factor = "mscale" if isinstance(kind, rope_utils.YarnRoPE) else "_scale"
        if getattr(kind, factor, 1.0) != 1.0:
            ways.append(("rope factor", same, lambda: changed(scaled, factor, 1.0)))
        if isinstance(kind, rope_utils.SuScaledRoPE):
            short = freqs * mx.array(args.rope_scaling["short_factor"])
            ways += [("short factors", same, lambda: changed(scaled, "_freqs", short)),
                     ("all of a head", same, lambda: whole_heads(scaled, attentions, base))]
    return ways


@contextlib.contextmanager
def whole_heads(ropes, attentions, base):
    """With all of each head rotated, the first part as before."""
    more, dims = 2 * ropes[0]._freqs.size, attentions[0].head_dim
    rest = base ** (mx.arange(more, dims, 2, dtype=mx.float32) / dims)
    freqs = mx.concatenate([ropes[0]._freqs, rest])
    with changed(ropes, "_freqs", freqs), changed(ropes, "dim", dims):
        yield


def of_gemma(model, attentions):
    ways = [
        ("norms as they are", edit("norm", less_one), contextlib.nullcontext),
        ("silu", same, lambda: changed([nn], "gelu_approx", nn.silu)),
        ("head scale", same,
         lambda: changed(attentions, "scale", attentions[0].head_dim ** -0.5)),
        ("embeddings as they are", same,
         lambda: changed([text_model(model).model.args], "hidden_size", 1)),
    ]
    if hasattr(attentions[0], "attn_logit_softcapping"):
        ways.append(("no softcap", same,
                     lambda: changed(attentions, "attn_logit_softcapping", 1e4)))
    return ways


def of_gemma3(model, attentions):
    near = [a.rope for a in attentions if a.is_sliding]
    far = [a.rope for a in attentions if not a.is_sliding]
    return of_gemma(model, attentions) + of_head_norms(model, attentions) + [
        ("far base near", same, lambda: changed(near, "base", far[0].base)),
        ("near base far", same, lambda: changed(far, "base", near[0].base)),
    ]


def of_head_norms(model, attentions):
    return [(f"without {norm}", same, lambda norm=norm: changed(attentions, norm, nn.Identity()))
            for norm in ("q_norm", "k_norm")]


def of_olmo(model, attentions):
    heads = {"q_norm": model.args.num_attention_heads, "k_norm": model.args.num_key_value_heads}
    return of_head_norms(model, attentions) + [
        (f"{norm} by head", same, lambda norm=norm, n=n: by_head(attentions, norm, n))
        for norm, n in heads.items() if n > 1] + of_swaps(model, attentions)


@contextlib.contextmanager
def by_head(attentions, norm, heads):
    with contextlib.ExitStack() as stack:
        for a in attentions:
            stack.enter_context(changed([a], norm, ByHead(getattr(a, norm), heads)))
        yield


def of_swaps(model, attentions):
    """Near and far layers the other way round."""
    kinds = getattr(model.model, "layer_types", None)
    if not kinds:
        return []
    other = {"sliding_attention": "full_attention", "full_attention": "sliding_attention"}
    return [("windows elsewhere", same,
             lambda: changed([model.model], "layer_types", [other[k] for k in kinds]))]


def of_gpt_oss(model, attentions):
    experts = [layer.mlp.experts for layer in model.layers]
    acts = [e.activation for e in experts]
    return of_swaps(model, attentions) + [
        ("sinks of 0", edit("sinks", mx.zeros_like), contextlib.nullcontext),
        ("no sinks", edit("sinks", lambda v: mx.full(v.shape, -1e4, v.dtype)),
         contextlib.nullcontext),
        ("no limit", same, lambda: changed(acts, "_limit", 1e4)),
        ("alpha 1", same, lambda: changed(acts, "_alpha", 1.0)),
        ("nothing added to up", edit_last("up_proj.bias", less_one), contextlib.nullcontext),
        ("silu", same, lambda: changed(experts, "activation", switch_layers.SwiGLU())),
    ]


def of_smollm3(model, attentions):
    without = [a for a in attentions if not isinstance(a.rope, nn.RoPE)]
    rope = next(a.rope for a in attentions if isinstance(a.rope, nn.RoPE))
    return [("rope everywhere", same, lambda: changed(without, "rope", rope))]


def of_granite(model, attentions):
    return [
        ("head scale", same,
         lambda: changed(attentions, "scale", attentions[0].head_dim ** -0.5)),
        ("embeddings as they are", same,
         lambda: changed([model.model], "embedding_multiplier", 1.0)),
        ("residuals as they are", same,
         lambda: changed(model.layers, "residual_multiplier", 1.0)),
    ]


def of_ministral3(model, attentions):
    flat = text_model(model).args.rope_parameters | {"llama_4_scaling_beta": 0.0}
    return [("queries unscaled", same,
             lambda: changed([text_model(model).model.args], "rope_parameters", flat))]


def of_qwen2_moe(model, attentions):
    half = edit_last("shared_expert_gate.weight", mx.zeros_like)
    zero = edit_last("shared_expert_gate.biases", mx.zeros_like)
    return [("shared expert ungated", lambda all: zero(half(all)), contextlib.nullcontext)]


class Silent(nn.Module):
    """A projection of which one part of three is not heard: it is 1."""

    def __init__(self, inner, part):
        super().__init__()
        self.inner, self.part = inner, part

    def __call__(self, x):
        parts = mx.split(self.inner(x), 3, -1)
        parts[self.part] = mx.ones_like(parts[self.part])
        return mx.concatenate(parts, -1)


class Ungated(nn.Module):
    """A norm without its gate."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def __call__(self, x, gate):
        return self.norm(x)


def each(things, attribute, make):
    """With an attribute of all things made anew from what it is."""
    @contextlib.contextmanager
    def context():
        with contextlib.ExitStack() as stack:
            for thing in things:
                new = make(getattr(thing, attribute))
                stack.enter_context(changed([thing], attribute, new))
            yield
    return context


def only_last(value):
    """A convolution that looks at its own token alone."""
    return value * (mx.arange(value.shape[1]) == value.shape[1] - 1)[:, None]


def of_lfm2(model, attentions):
    convs = [layer.conv for layer in model.layers if "conv" in layer]
    norms = [(f"without {norm}", same,
              lambda norm=norm: changed(attentions, norm, nn.Identity()))
             for norm in ("q_layernorm", "k_layernorm")]
    return norms + [
        ("no convolution", edit_last("conv.conv.weight", only_last), contextlib.nullcontext),
        ("convolution backwards", edit_last("conv.conv.weight", lambda v: v[:, ::-1]),
         contextlib.nullcontext),
        ("without B", same, each(convs, "in_proj", lambda p: Silent(p, 0))),
        ("without C", same, each(convs, "in_proj", lambda p: Silent(p, 1))),
    ]


def of_delta(model, attentions):
    nets = [layer.linear_attn for layer in model.layers if "linear_attn" in layer]
    module = qwen3_5 if isinstance(nets[0], qwen3_5.GatedDeltaNet) else qwen3_next
    update = module.gated_delta_update
    heads = nets[0].num_v_heads // nets[0].num_k_heads

    def other(how):
        """With the rule of something else than what it is to be of."""
        def changed_update(q, k, v, a, b, *rest, **named):
            return update(*how(q, k, v, a, b), *rest, **named)
        return lambda: changed([module], "gated_delta_update", changed_update)

    def ungated(all):
        """Attention with gates that are the same for all."""
        def half(key, value):
            if "q_proj." in key and value.dtype == mx.float32:
                by_head = value.reshape(attentions[0].num_attention_heads, 2, -1)
                return (by_head * mx.array([1, 0])[:, None]).reshape(value.shape)
            if "o_proj." in key and value.dtype == mx.float32:
                return 2 * value
            return value
        return {k: half(k, v) for k, v in all.items()}

    silu = types.SimpleNamespace(silu=lambda x: x)
    ways = [
        ("no convolution", edit("conv1d.weight", only_last), contextlib.nullcontext),
        ("convolution backwards", edit("conv1d.weight", lambda v: v[:, ::-1]),
         contextlib.nullcontext),
        ("no silu", same, lambda: changed([module], "nn", silu)),
        ("no decay", same, other(lambda q, k, v, a, b: (q, k, v, a - 1e4, b))),
        ("without a", same, other(lambda q, k, v, a, b: (q, k, v, 0 * a, b))),
        ("without dt_bias", edit("dt_bias", mx.zeros_like), contextlib.nullcontext),
        ("without A_log", edit("A_log", mx.zeros_like), contextlib.nullcontext),
        ("beta of 1", same, other(lambda q, k, v, a, b: (q, k, v, a, b + 1e4))),
        ("keys and queries as they are", same, lambda: changed(
            [module], "normalize_qk", lambda q, k, inv_scale, eps: (inv_scale * q, k))),
        ("no z", same, each(nets, "norm", Ungated)),
        ("no weights in the norm of values", edit("linear_attn.norm.weight", mx.ones_like),
         contextlib.nullcontext),
        ("attention ungated", ungated, contextlib.nullcontext),
        ("all of a head", same, lambda: changed(
            [a.rope for a in attentions], "dims", attentions[0].head_dim)),
    ]
    if nets[0].num_k_heads > 1:
        ways.append(("heads shared otherwise", same, other(lambda q, k, v, a, b: (
            mx.tile(q, (1, 1, heads, 1)), mx.tile(k, (1, 1, heads, 1)), v, a, b))))
    if any("shared_expert_gate" in k for k in named(model)):
        ways += of_qwen2_moe(model, attentions)
        sparse = [m for m in model.modules() if type(m) in ROUTERS]
        ways.append(("weights not made to add up", same,
                     lambda: changed(sparse, "norm_topk_prob", False)))
    return ways + of_head_norms(model, attentions)


OF_FAMILY = {
    "lfm2": of_lfm2, "qwen3_next": of_delta, "qwen3_5_text": of_delta,
    "qwen3_5_moe_text": of_delta,
    "gemma2": of_gemma, "gemma3_text": of_gemma3, "gpt_oss": of_gpt_oss,
    "granite": of_granite, "granitemoehybrid": of_granite, "ministral3": of_ministral3,
    "olmo2": of_olmo, "olmo3": of_olmo, "qwen2_moe": of_qwen2_moe, "smollm3": of_smollm3,
}


def rescaled(model):
    """Ways that change the logits, though not which is the largest."""
    ways = []
    if hasattr(model, "final_logit_softcapping"):
        ways.append(("no final softcap", lambda: changed([model], "final_logit_softcapping", 1e4)))
    if hasattr(model, "logits_scaling"):
        ways.append(("logits as they are", lambda: changed([model], "logits_scaling", 1.0)))
    return ways


def watch_routers():
    """Keeps what the routers say, for whoever asks next."""
    said = []
    for block, (router, _) in ROUTERS.items():
        def watched(self, x, call=block.__call__, router=router):
            said.append(getattr(self, router)(x))
            return call(self, x)

        block.__call__ = watched
    return said


def fill_in_gather():
    """mlx on a CPU has no gather_mm but of f32; this is it, of any type."""
    call = switch_layers.SwitchLinear.__call__

    def filled(self, x, indices, sorted_indices=False):
        if x.dtype == mx.float32:
            return call(self, x, indices, sorted_indices)
        y = x @ self.weight[indices].swapaxes(-1, -2)
        return y + mx.expand_dims(self.bias[indices], -2) if "bias" in self else y

    switch_layers.SwitchLinear.__call__ = filled
