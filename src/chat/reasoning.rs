//! How a prompt shows that the model is already in the middle of its reasoning.
//! Knows no markers: they are the form's.

/// Whether the template has opened the reasoning itself, with the first text of
/// one of the pairs, so that the model's turn begins inside.
pub(super) fn opened_by(prompt: &str, markers: &[(&str, &str)]) -> bool {
    let prompt = prompt.trim_end();
    let mut openings = markers.iter().map(|(opening, _)| opening);
    openings.any(|opening| prompt.ends_with(opening))
}
