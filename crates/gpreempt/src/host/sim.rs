//! The simulated machine behind the seam.
