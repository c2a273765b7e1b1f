//! The markers around a model's reasoning, and how a prompt shows that the
//! model is already in the middle of it.

/// Opens reasoning.
pub(super) const OPENING: &str = "<think>";
/// Closes it.
pub(super) const CLOSING: &str = "</think>";

/// Whether the template has opened the reasoning itself, so that the model's
/// turn begins inside.
pub(super) fn opened_by(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPENING)
}
