//! The seam to the tensor library.
