//! Which experts a token is sent to, where that is decided on the host.

/// The `top_k` most likely experts and their weights.
pub(super) fn likely_experts(logits: &[f32], top_k: usize, renormalize: bool) -> Vec<(usize, f32)> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut experts: Vec<(usize, f32)> = logits
        .iter()
        .map(|logit| (logit - top).exp())
        .enumerate()
        .collect();
    let all: f32 = experts.iter().map(|(_, weight)| weight).sum();
    experts.sort_by(|a, b| b.1.total_cmp(&a.1));
    experts.truncate(top_k);
    let total = match renormalize {
        true => experts.iter().map(|(_, weight)| weight).sum(),
        false => all,
    };
    for (_, weight) in &mut experts {
        *weight /= total;
    }
    experts
}
