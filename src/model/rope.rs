//! Rotary frequencies. Knows no tensors.

/// The inverse frequencies of the `head_dim / 2` rotated pairs:
/// `theta^(-2i / head_dim)` (Su et al. 2021, <https://arxiv.org/abs/2104.09864>).
pub(super) fn inverse_frequencies(theta: f64, head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|pair| theta.powf(-(2.0 * pair as f64) / head_dim as f64) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::inverse_frequencies;

    #[test]
    fn frequencies_fall_from_one_towards_one_over_theta() {
        assert_eq!(inverse_frequencies(10_000.0, 4), [1.0, 0.01]);
        let long = inverse_frequencies(1e6, 128);
        assert_eq!(long.len(), 64);
        assert!(long.windows(2).all(|pair| pair[1] < pair[0]));
        assert!(long[63] > 1e-6);
    }
}
