//! Which experts a token is sent to, where that is decided on the host.

/// The `top_k` most likely experts and their weights, for which `all` is room.
pub(super) fn likely_experts<'a>(
    logits: &[f32],
    top_k: usize,
    renormalize: bool,
    all: &'a mut Vec<(usize, f32)>,
) -> &'a [(usize, f32)] {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    all.clear();
    all.extend(logits.iter().map(|logit| (logit - top).exp()).enumerate());
    let total: f32 = all.iter().map(|(_, weight)| weight).sum();
    // Of equally likely ones the first.
    all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(top_k);
    let total = match renormalize {
        true => all.iter().map(|(_, weight)| weight).sum(),
        false => total,
    };
    for (_, weight) in all.iter_mut() {
        *weight /= total;
    }
    all
}
