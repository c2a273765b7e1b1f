//! What sets the families apart. A family is a way to fill in a
//! [`DecoderConfig`](super::DecoderConfig), not code.

use super::{Names, NormPlacement, QkNorm};
use crate::backend::Activation;

/// The families, by the `model_type` they have.
const FAMILIES: [(&str, Family); 21] = [
    ("llama", Family::LLAMA),
    ("mistral", Family::MISTRAL),
    ("ministral3", Family::LLAMA),
    ("qwen2", QWEN2),
    (
        "qwen2_moe",
        Family {
            experts: Some(ExpertFamily::QWEN),
            ..QWEN2
        },
    ),
    ("qwen3", QWEN3),
    (
        "qwen3_moe",
        Family {
            experts: Some(ExpertFamily::QWEN),
            eight_bits: &["mlp.gate"],
            ..QWEN3
        },
    ),
    (
        "mixtral",
        Family {
            experts: Some(ExpertFamily::MIXTRAL),
            ..Family::MISTRAL
        },
    ),
    (
        "gemma2",
        Family {
            norms: NormPlacement::Around,
            windows: Windows::AllButEvery(2),
            defaults: &[
                ("attn_logit_softcapping", 50.0),
                ("final_logit_softcapping", 30.0),
                ("query_pre_attn_scalar", 256.0),
                ("sliding_window", 4096.0),
                ("head_dim", 256.0),
                ("max_position_embeddings", 8192.0),
            ],
            ..GEMMA
        },
    ),
    (
        "gemma3_text",
        Family {
            norms: NormPlacement::Around,
            qk_norm: QkNorm::Head,
            windows: Windows::AllButEvery(6),
            ropes: Ropes::OwnWhereSliding,
            embedding_scale: EmbeddingScale::RoundedRoot,
            stored_output_counts: true,
            // transformers leaves out of a configuration what is as its
            // own class has it.
            defaults: &[
                ("num_attention_heads", 8.0),
                ("num_key_value_heads", 4.0),
                ("head_dim", 256.0),
                ("rms_norm_eps", 1e-6),
                ("rope_theta", 1e6),
                ("rope_local_base_freq", 1e4),
                ("query_pre_attn_scalar", 256.0),
                ("sliding_window", 4096.0),
                ("max_position_embeddings", 131_072.0),
                ("vocab_size", 262_208.0),
            ],
            ..GEMMA
        },
    ),
    (
        "phi3",
        Family {
            fused: true,
            ..Family::MISTRAL
        },
    ),
    (
        "smollm3",
        Family {
            no_rope_every: Some(4),
            ..Family::LLAMA
        },
    ),
    (
        "granite",
        Family {
            eight_bits: &["self_attn.o_proj", "mlp.down_proj", "lm_head"],
            ..Family::LLAMA
        },
    ),
    ("granitemoehybrid", Family::LLAMA),
    ("olmo2", OLMO2),
    (
        "olmo3",
        Family {
            windows: Windows::AllButEvery(4),
            ropes: Ropes::PlainWhereSliding,
            ..OLMO2
        },
    ),
    (
        "gpt_oss",
        Family {
            windows: Windows::AllButEvery(2),
            biases: Biases::All,
            activation: Activation::ClampedSilu,
            experts: Some(ExpertFamily::GPT_OSS),
            sinks: true,
            eight_bits: &["router"],
            ..Family::LLAMA
        },
    ),
    (
        "qwen3_next",
        Family {
            operators: Operators::DeltaNets { fused: true },
            experts: Some(ExpertFamily::QWEN),
            ..QWEN3_DELTA
        },
    ),
    ("qwen3_5_text", QWEN3_5),
    (
        "qwen3_5_moe_text",
        Family {
            experts: Some(ExpertFamily {
                renormalize: Renormalize::UnlessWritten,
                ..ExpertFamily::QWEN
            }),
            ..QWEN3_5
        },
    ),
    (
        "lfm2",
        Family {
            windows: Windows::None,
            qk_norm: QkNorm::Head,
            operators: Operators::ShortConvs,
            names: Names::LFM2,
            defaults: &[("rope_theta", 1e6)],
            ..Family::LLAMA
        },
    ),
];

const QWEN2: Family = Family {
    windows: Windows::None,
    biases: Biases::QueryKeyValue,
    ..Family::LLAMA
};

const QWEN3: Family = Family {
    windows: Windows::None,
    qk_norm: QkNorm::Head,
    ..Family::LLAMA
};

/// What Qwen3-Next and Qwen3.5 have in common.
const QWEN3_DELTA: Family = Family {
    operators: Operators::DeltaNets { fused: false },
    output_gate: true,
    eight_bits: &["mlp.gate", "shared_expert_gate"],
    ..QWEN3
};

const QWEN3_5: Family = Family {
    defaults: &[("partial_rotary_factor", 0.25)],
    ..QWEN3_DELTA
};

/// What Gemma 2 and 3 have in common.
const GEMMA: Family = Family {
    norm_offset: 1.0,
    activation: Activation::GeluTanh,
    embedding_scale: EmbeddingScale::Root,
    ..Family::LLAMA
};

const OLMO2: Family = Family {
    norms: NormPlacement::After,
    qk_norm: QkNorm::Full,
    ..Family::LLAMA
};

/// Models of which the language model is a part, described by `text_config`,
/// and the family it is of unless that says so.
const NESTED: [(&str, &str); 4] = [
    ("gemma3", "gemma3_text"),
    ("mistral3", "mistral"),
    ("qwen3_5", "qwen3_5_text"),
    ("qwen3_5_moe", "qwen3_5_moe_text"),
];

/// The names of the families.
pub(super) fn names() -> String {
    let plain = FAMILIES.iter().map(|(name, _)| *name);
    let nested = NESTED.iter().map(|(name, _)| *name);
    plain.chain(nested).collect::<Vec<_>>().join(", ")
}

/// The family of the language model within models named `name`.
pub(super) fn nested(name: &str) -> Option<&'static str> {
    let (_, family) = NESTED.iter().find(|(known, _)| *known == name)?;
    Some(family)
}

/// The family named `name`.
pub(super) fn find(name: &str) -> Option<Family> {
    let (_, family) = FAMILIES.iter().find(|(known, _)| *known == name)?;
    Some(*family)
}

/// A family.
#[derive(Clone, Copy)]
pub(super) struct Family {
    /// What takes a sequence's tokens together.
    pub(super) operators: Operators,
    /// What `sliding_window` means.
    pub(super) windows: Windows,
    /// How queries and keys are normed.
    pub(super) qk_norm: QkNorm,
    /// Where the norms of a layer stand.
    pub(super) norms: NormPlacement,
    /// What parts are called.
    pub(super) names: Names,
    /// Added to the stored weights of the norms.
    pub(super) norm_offset: f32,
    /// Which products of attention have biases.
    pub(super) biases: Biases,
    /// Whether queries, keys and values are stored as one matrix, and gate
    /// and up projection.
    pub(super) fused: bool,
    /// What gates go through.
    pub(super) activation: Activation,
    /// What experts are called, where layers may have some.
    pub(super) experts: Option<ExpertFamily>,
    /// What the embedding is multiplied by.
    pub(super) embedding_scale: EmbeddingScale,
    /// Whether each head has a sink.
    pub(super) sinks: bool,
    /// Whether each head's query has a gate behind it.
    pub(super) output_gate: bool,
    /// How layers with windows are rotated.
    pub(super) ropes: Ropes,
    /// Every so manieth layer is not rotated, unless `no_rope_layers` says
    /// which are.
    pub(super) no_rope_every: Option<usize>,
    /// Whether an output projection that is stored counts even where
    /// `tie_word_embeddings` says there is none.
    pub(super) stored_output_counts: bool,
    /// What the names of matrices end in that mlx-lm quantizes to 8 bits
    /// however few the others get.
    pub(super) eight_bits: &'static [&'static str],
    /// Numbers that `config.json` may leave out.
    pub(super) defaults: &'static [(&'static str, f64)],
}

/// What takes a sequence's tokens together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operators {
    /// Attention in all layers.
    Attention,
    /// Attention in the layers that `layer_types` names, or else in every so
    /// manieth, which `full_attention_interval` says; gated delta nets in the
    /// others.
    DeltaNets {
        /// Whether their projections are stored as two matrices.
        fused: bool,
    },
    /// Attention in the layers that `full_attn_idxs` or `layer_types` names,
    /// short convolutions in the others.
    ShortConvs,
}

/// Which layers `sliding_window` is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// None; one that asks for it is refused.
    None,
    /// Those that `layer_types` names.
    ByType,
    /// Those that `layer_types` names, or all.
    All,
    /// Those that `layer_types` names, or all but every so manieth, which
    /// `sliding_window_pattern` may say otherwise.
    AllButEvery(usize),
}

/// Which products of attention have biases.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    /// All, if `attention_bias` says so.
    AsWritten,
    /// Those that make queries, keys and values.
    QueryKeyValue,
    /// All.
    All,
}

/// How layers with windows are rotated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ropes {
    /// As the others.
    Alike,
    /// With the base `rope_local_base_freq`, unscaled.
    OwnWhereSliding,
    /// With the others' base, unscaled.
    PlainWhereSliding,
}

/// What the embedding is multiplied by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EmbeddingScale {
    /// `embedding_multiplier`, or 1.
    AsWritten,
    /// The square root of the hidden size.
    Root,
    /// The same, rounded to bf16, as the models were trained with it.
    RoundedRoot,
}

/// What is called how in a layer of experts.
#[derive(Clone, Copy)]
pub(super) struct ExpertFamily {
    /// The router.
    pub(super) router: &'static str,
    /// The experts, stacked.
    pub(super) experts: &'static str,
    /// Whether the chosen ones' weights are made to add up to 1.
    pub(super) renormalize: Renormalize,
    /// Whether the router's product and the experts' have biases.
    pub(super) bias: bool,
}

/// Whether chosen experts' weights are made to add up to 1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Renormalize {
    /// Always.
    Always,
    /// If `norm_topk_prob` says so.
    IfWritten,
    /// Unless `norm_topk_prob` says otherwise.
    UnlessWritten,
}

impl Names {
    const LLAMA: Self = Self {
        last_norm: "model.norm",
        operator_norm: "input_layernorm",
        mlp_norm: "post_attention_layernorm",
        qk_norms: ["q_norm", "k_norm"],
        output: "o_proj",
        mlp: "mlp",
        projections: ["gate_proj", "up_proj", "down_proj"],
    };
    const LFM2: Self = Self {
        last_norm: "model.embedding_norm",
        operator_norm: "operator_norm",
        mlp_norm: "ffn_norm",
        qk_norms: ["q_layernorm", "k_layernorm"],
        output: "out_proj",
        mlp: "feed_forward",
        projections: ["w1", "w3", "w2"],
    };
}

impl ExpertFamily {
    const QWEN: Self = Self {
        router: "mlp.gate",
        experts: "mlp.switch_mlp",
        renormalize: Renormalize::IfWritten,
        bias: false,
    };
    const MIXTRAL: Self = Self {
        router: "block_sparse_moe.gate",
        experts: "block_sparse_moe.switch_mlp",
        renormalize: Renormalize::Always,
        bias: false,
    };
    const GPT_OSS: Self = Self {
        router: "mlp.router",
        experts: "mlp.experts",
        renormalize: Renormalize::Always,
        bias: true,
    };
}

impl Family {
    const LLAMA: Self = Self {
        operators: Operators::Attention,
        windows: Windows::ByType,
        qk_norm: QkNorm::None,
        norms: NormPlacement::Before,
        names: Names::LLAMA,
        norm_offset: 0.0,
        biases: Biases::AsWritten,
        fused: false,
        activation: Activation::Silu,
        experts: None,
        embedding_scale: EmbeddingScale::AsWritten,
        sinks: false,
        output_gate: false,
        ropes: Ropes::Alike,
        no_rope_every: None,
        stored_output_counts: false,
        eight_bits: &[],
        defaults: &[],
    };
    const MISTRAL: Self = Self {
        windows: Windows::All,
        ..Self::LLAMA
    };
}
