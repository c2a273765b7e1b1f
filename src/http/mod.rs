//! The HTTP surface: accept, limits, JSON in and out, errors to statuses.
