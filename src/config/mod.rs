//! The configuration: what the user wrote, and what it means.
