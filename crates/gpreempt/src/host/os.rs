//! The operating system behind the seam. The only unsafe code of this crate.
