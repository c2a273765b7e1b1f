//! SIGTERM and SIGINT as a watchable value.
