//! Brings a model's files into a local folder. Knows nothing of what is in them.
