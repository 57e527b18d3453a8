//! The hardware below the driver: shader and copy engines, the scheduler firmware that maps queues to them, and the
//! rounds in which driver and firmware talk.

pub(crate) mod engine;
pub(crate) mod feed;
pub(crate) mod firmware;
pub(crate) mod hiq;
pub(crate) mod pool;
pub(crate) mod rounds;
